use strict;
use warnings;
use POSIX ();

my $VERSION = "one";

sub {
    my $env = shift;
    my $body = '';
    $env->{'psgi.input'}->read($body, $env->{CONTENT_LENGTH}) if $env->{CONTENT_LENGTH};
    my ($rest) = $env->{PATH_INFO} =~ m{^/(.*)};
    my ($q) = ($env->{QUERY_STRING} // '') =~ /q=([^&]*)/;
    my @words = ("perl", $VERSION, POSIX::getppid(), $<, $env->{REQUEST_METHOD}, $rest, $q // '', "[$body]");
    return [200, ['Content-Type' => 'text/plain'], [join ' ', @words]];
};
