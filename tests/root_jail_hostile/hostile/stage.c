/*
 * stage.c - a machine of the test's own: namespaces in which an emperor and its vassals see nothing of the host that
 * a test would not want to be harmed.
 *
 *   hostile stage world=DIR home=DIR -- PROGRAM [ARGUMENT]...
 *       DIR becomes /srv, the other /home, its `root` /root; /tmp and /dev/shm are new; the network is a loopback with
 *       192.0.2.1/24 on it. PROGRAM is process 10000. It has a terminal, a key in its session's keyring, and by accident the descriptors
 *       9 of /srv/leak and 10 of /srv. SIGTERM goes to it, its status is ours; whatever is left then is killed with the pid namespace.
 */
#include "hostile.h"
#include <arpa/inet.h>
#include <net/if.h>
#include <pty.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/xattr.h>

static pid_t below;

static void fail(const char *what) {
	fprintf(stderr, "stage: %s: %s\n", what, strerror(errno));
	exit(125);
}

static void pass_on(int number) {
	if (below > 0) kill(below, number);
}

static int wait_for(pid_t child) {
	below = child;
	struct sigaction forward = { .sa_handler = pass_on };
	sigaction(SIGTERM, &forward, NULL);
	for (;;) {
		int status;
		pid_t ended = waitpid(-1, &status, 0);
		if (ended < 0 && errno == EINTR) continue;
		if (ended < 0) return 125;
		if (ended == child) return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	}
}

static void address(int fd, const char *name, const char *host) {
	struct ifreq r = { 0 };
	strcpy(r.ifr_name, name);
	struct sockaddr_in *a = (struct sockaddr_in *) &r.ifr_addr;
	if (host) {
		a->sin_family = AF_INET;
		inet_pton(AF_INET, host, &a->sin_addr);
		if (ioctl(fd, SIOCSIFADDR, &r)) fail(host);
		inet_pton(AF_INET, "255.255.255.0", &a->sin_addr);
		if (ioctl(fd, SIOCSIFNETMASK, &r)) fail("its mask");
	} else {
		r.ifr_flags = IFF_UP;
		if (ioctl(fd, SIOCSIFFLAGS, &r)) fail("the loopback");
	}
}

void loopback(void) {
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0) fail("socket");
	address(fd, "lo", NULL);
	address(fd, "lo:1", "192.0.2.1");
	close(fd);
}

int grant(const char *program) {
	const unsigned rights[5] = { 0x02000001, 1u << 21 };
	if (setxattr(program, "security.capability", rights, sizeof rights, 0)) fail(program);
	return 0;
}

/* A new session, whose keyring holds what the emperor's vassals should not have. */
static void keyring(void) {
	syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL);
	long key = syscall(SYS_add_key, "user", KEY_NAME, SECRET, sizeof SECRET - 1, -3);
	if (key >= 0) syscall(SYS_keyctl, 5 /* KEYCTL_SETPERM */, key, 0x3f1f1f1fu);
}

static int slave = -1;

/* The other end stays open in process 1. */
static void terminal(void) {
	int master;
	if (openpty(&master, &slave, NULL, NULL, NULL)) fail("openpty");
	fcntl(master, F_SETFD, FD_CLOEXEC);
	fcntl(slave, F_SETFD, FD_CLOEXEC);
}

static void leak(const char *name, int number) {
	int fd = open(name, O_RDONLY);
	if (fd < 0 || dup2(fd, number) != number) fail(name);
	if (fd != number) close(fd);
}

int stage(int count, char **words) {
	const char *world = NULL, *home = NULL;
	for (; count && strcmp(*words, "--"); count--, words++) {
		if (!strncmp(*words, "world=", 6)) world = *words + 6;
		if (!strncmp(*words, "home=", 5)) home = *words + 5;
	}
	if (count < 2 || !world || !home) return 2;
	if (unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)) fail("unshare");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) fail("/");
	if (mount(world, "/srv", NULL, MS_BIND, NULL)) fail("/srv");
	if (mount(home, "/home", NULL, MS_BIND, NULL)) fail("/home");
	if (mount(path("%s/root", home), "/root", NULL, MS_BIND, NULL)) fail("/root");
	if (mount("none", "/tmp", "tmpfs", 0, "size=1g,mode=1777")) fail("/tmp");
	if (mount("none", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=1777")) fail("/dev/shm");
	loopback();
	if (chdir("/srv")) fail("chdir");
	pid_t init = fork();
	if (init < 0) fail("fork");
	if (init) return wait_for(init);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (mount("none", "/proc", "proc", 0, NULL)) fail("/proc");
	/* Far from the numbers in a pid namespace of a vassal. */
	int last = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
	if (last < 0 || write(last, "9999", 4) != 4) fail("ns_last_pid");
	close(last);
	terminal();
	pid_t program = fork();
	if (program < 0) fail("fork");
	if (program) return wait_for(program);
	if (setsid() < 0) fail("setsid");
	if (ioctl(slave, TIOCSCTTY, 0)) fail("TIOCSCTTY");
	keyring();
	leak("/srv/leak", 9);
	leak("/srv", 10);
	execvp(words[1], words + 1);
	fail(words[1]);
	return 125;
}
