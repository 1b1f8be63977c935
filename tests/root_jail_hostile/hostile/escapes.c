/* escapes.c - out of the root directory, by descriptors, handles and links; the network; more than its share. */
#include "hostile.h"
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

static int hidden_from_here(void) {
	for (int up = 0; up < 32; up++) {
		if (!tells(HIDDEN + 1)) return 0;
		if (chdir("..")) return errno;
	}
	return NOTHING;
}

/* chroot below, with a descriptor that stays above. */
static int chroot_twice(void) {
	const char *dir = path("%s/root", own);
	mkdir(dir, 0700);
	int top = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), answer = 0;
	if (top < 0 || chroot(dir) || fchdir(top)) answer = errno;
	rmdir(dir);
	return answer ? answer : hidden_from_here();
}

/* Beside 0, 1, 2 and its link. */
static int leaked(void) {
	for (int fd = 3; fd < 65536; fd++)
		if (fd != emperors_link() && fcntl(fd, F_GETFD) >= 0) return 0;
	return NOTHING;
}
static int leaked_secret(void) {
	for (int fd = 0; fd < 65536; fd++)
		if (!tells_fd(fd)) return 0;
	return NOTHING;
}
static int by_directory_descriptor(void) {
	for (int fd = 0; fd < 65536; fd++)
		if (!fchdir(fd) && !hidden_from_here()) return 0;
	return NOTHING;
}
static int by_working_directory(void) { return hidden_from_here(); }

static union { struct file_handle handle; char space[sizeof(struct file_handle) + MAX_HANDLE_SZ]; } found;

static int name_handle(void) {
	int mount;
	found.handle.handle_bytes = MAX_HANDLE_SZ;
	return ANSWER(name_to_handle_at(AT_FDCWD, "/usr", &found.handle, &mount, 0));
}
/* Of a directory that it sees, where the kernel tells, else of the root of a disk: inode 2. */
static int open_handle(void) {
	if (name_handle()) {
		found.handle.handle_bytes = 8;
		found.handle.handle_type = 1;
		memcpy(found.handle.f_handle, "\2\0\0\0\0\0\0\0", 8);
	}
	int mount = open("/usr", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int fd = open_by_handle_at(mount, &found.handle, O_RDONLY | O_CLOEXEC);
	return fd < 0 && errno != ESTALE ? errno : 0;
}

const struct attempt escapes[] = {
	{ "escape-chroot", chroot_twice },
	{ "escape-descriptor", leaked },
	{ "escape-descriptor-secret", leaked_secret },
	{ "escape-descriptor-directory", by_directory_descriptor },
	{ "escape-working-directory", by_working_directory },
	{ "escape-handle-name", name_handle },
	{ "escape-handle", open_handle },
	{ NULL, NULL },
};

static int reach(int kind, const char *host, int number) {
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t) number) };
	inet_pton(AF_INET, host, &a.sin_addr);
	int fd = socket(AF_INET, kind | SOCK_CLOEXEC, 0);
	return fd < 0 ? errno : ANSWER(connect(fd, (struct sockaddr *) &a, sizeof a));
}
static int service(void) { return reach(SOCK_STREAM, "127.0.0.1", port); }
static int elsewhere(void) { return reach(SOCK_DGRAM, "192.0.2.9", 53); }
static int sockets(int family, int kind, int protocol) { return ANSWER(socket(family, kind, protocol)); }
static int raw(void) { return sockets(AF_INET, SOCK_RAW, IPPROTO_ICMP); }
static int packets(void) { return sockets(AF_PACKET, SOCK_RAW, 0); }
static int audit(void) { return sockets(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT); }
static int of_the_machine(void) { return sockets(AF_VSOCK, SOCK_STREAM, 0); }
static int of_the_crypto(void) { return sockets(AF_ALG, SOCK_SEQPACKET, 0); }
static int privileged_port(void) {
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(81) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return fd < 0 ? errno : ANSWER(bind(fd, (struct sockaddr *) &a, sizeof a));
}
/* To what it is already. */
static int interface(void) {
	struct ifreq r = { .ifr_name = "lo" };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return fd < 0 || ioctl(fd, SIOCGIFFLAGS, &r) ? errno : ANSWER(ioctl(fd, SIOCSIFFLAGS, &r));
}

const struct attempt network[] = {
	{ "network-service", service },
	{ "network-elsewhere", elsewhere },
	{ "network-raw", raw },
	{ "network-packets", packets },
	{ "network-audit", audit },
	{ "network-machine", of_the_machine },
	{ "network-crypto", of_the_crypto },
	{ "network-privileged-port", privileged_port },
	{ "network-interface", interface },
	{ NULL, NULL },
};

/* Two hundred processes. */
static int tasks(void) {
	pid_t all[200];
	int count = 0, answer = 0;
	for (; count < 200; count++) {
		all[count] = fork();
		if (all[count] < 0) { answer = errno; break; }
		if (!all[count]) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;) pause();
		}
	}
	for (int i = 0; i < count; i++) {
		kill(all[i], SIGKILL);
		waitpid(all[i], NULL, 0);
	}
	return answer;
}

/* Where somebody has to be ended for it, it shall be the one who takes it. */
static void to_be_ended_first(void) {
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && write(fd, "1000", 4) == 4) close(fd);
}

/* 256 MiB. */
static int memory(void) {
	to_be_ended_first();
	size_t size = (size_t) 256 << 20;
	char *all = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (all == MAP_FAILED) return errno;
	for (size_t i = 0; i < size; i += 4096) all[i] = 1;
	return 0;
}

static double now(void) {
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double) time.tv_sec + (double) time.tv_nsec / 1e9;
}

static double used(const struct rusage *usage) {
	return (double) (usage->ru_utime.tv_sec + usage->ru_stime.tv_sec)
		+ (double) (usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1e6;
}

/* Eight processes for a second, three times: more than the fifth of a processor that is allowed, on a busy machine too. */
static int processor(void) {
	struct rusage before, after;
	for (int round = 0; round < 3; round++) {
		double begin = now();
		getrusage(RUSAGE_CHILDREN, &before);
		for (int i = 0; i < 8; i++) {
			pid_t child = fork();
			if (child < 0) return errno;
			if (child) continue;
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			while (now() < begin + 1);
			_exit(0);
		}
		while (wait(NULL) > 0);
		double took = now() - begin;
		getrusage(RUSAGE_CHILDREN, &after);
		if ((used(&after) - used(&before)) / took > 0.35) return 0;
	}
	return THROTTLED;
}

/* 320 MiB in /tmp. */
static int temporary_files(void) {
	to_be_ended_first();
	const char *name = path("/tmp/hostile-%d", getpid());
	int fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0) return errno;
	unlink(name);
	return ANSWER(fallocate(fd, 0, 0, (off_t) 320 << 20));
}

/* First of all, on the machine. */
static int nice_first(void) {
	struct sched_param most = { .sched_priority = 1 };
	return ANSWER(syscall(SYS_sched_setscheduler, 0, 1 /* SCHED_FIFO */, &most));
}

const struct attempt limits[] = {
	{ "share-tasks", tasks },
	{ "share-memory", memory },
	{ "share-processor", processor },
	{ "share-temporary-files", temporary_files },
	{ "share-real-time", nice_first },
	{ NULL, NULL },
};
