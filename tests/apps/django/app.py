import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import re_path
from django.views.decorators.csrf import csrf_exempt

VERSION = "one"
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="only for a test", MIDDLEWARE=[])


@csrf_exempt
def answer(request, rest):
    body = request.body.decode()
    words = ("django", VERSION, os.getppid(), os.getuid(), request.method, rest, request.GET.get("q", ""), f"[{body}]")
    return HttpResponse(" ".join(map(str, words)), content_type="text/plain")


urlpatterns = [re_path("^(.*)$", answer)]
application = get_wsgi_application()
