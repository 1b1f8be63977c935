/* victim.c - a tenant's application with everything that others are after. */
#include "hostile.h"
#include <arpa/inet.h>
#include <mqueue.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/un.h>

static void say(const char *what) {
	printf("victim: %s: %s\n", what, strerror(errno));
	fflush(stdout);
}

static void file(const char *name, mode_t mode) {
	unlink(name);
	int fd = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, mode);
	if (fd < 0 || write(fd, SECRET, sizeof SECRET - 1) < 0 || fchmod(fd, mode)) say(name);
	if (fd >= 0) close(fd);
}

static void listener(const struct sockaddr *address, socklen_t size, const char *name, mode_t mode) {
	if (name) unlink(name);
	int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (fd < 0 || bind(fd, address, size) || listen(fd, 16)) say(name ? name : "a listener");
	if (name && chmod(name, mode)) say(name);
}

static void by_path(const char *name, mode_t mode) {
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	strncpy(a.sun_path, name, sizeof a.sun_path - 1);
	listener((struct sockaddr *) &a, sizeof a, name, mode);
}

int play_victim(void) {
	strcpy(secret_in_memory, SECRET);
	umask(0);
	file(path("%s/secret", own), 0600);
	file(path("%s/public", own), 0644);
	by_path(path("%s/private.sock", own), 0600);
	by_path(path("%s/open.sock", own), 0666);
	file(path("%s/tmp/victims-note", place), 0644);
	file("/tmp/victims-note", 0644);
	file("/dev/shm/victims-note", 0644);
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	strcpy(a.sun_path + 1, ABSTRACT);
	listener((struct sockaddr *) &a, (socklen_t) (offsetof(struct sockaddr_un, sun_path) + sizeof ABSTRACT), NULL, 0);
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons((uint16_t) port) };
	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener((struct sockaddr *) &in, sizeof in, NULL, 0);
	int segment = shmget(IPC_KEY, 4096, IPC_CREAT | 0666);
	char *memory = segment < 0 ? (void *) -1 : shmat(segment, NULL, 0);
	if (memory == (void *) -1) say("shmget");
	else strcpy(memory, SECRET);
	struct mq_attr attributes = { .mq_maxmsg = 1, .mq_msgsize = 64 };
	if (mq_open("/victims-queue", O_RDWR | O_CREAT, 0666, &attributes) < 0) say("mq_open");
	printf("victim: ready\n");
	fflush(stdout);
	for (;;) pause();
}
