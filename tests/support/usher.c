/*
 * usher.c - starts a program the way a test wants it, and cleans up behind a test.
 *
 *   usher launch [WORD]... -- PROGRAM [ARGUMENT]...
 *       a session of its own, killed when the test's thread ends, then exec; the process id stays.
 *       nofile=SOFT[:HARD] nproc=N fsize=N umask=OCTAL nice=N uid=N gid=N (groups are emptied) block=SIGNUM
 *       ignore=SIGNUM open=FD:PATH (inherited by accident) survive (not killed with the test)
 *       passed=SOCKET (takes descriptors from there, and has them as from a service manager)
 *   usher keep DIR
 *       waits for the end of its input, then kills by pid whatever has WITNESS_DIR=DIR in its environment
 *       or runs a program below DIR, until nothing is left, and removes DIR
 *   usher hog inotify|pids N
 *       takes up to N inotify instances or processes of this user, prints how many, waits for the end of its input
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what) {
	fprintf(stderr, "usher: %s: %s\n", what, strerror(errno));
	exit(125);
}

static void limit(int which, char *value) {
	char *hard = strchr(value, ':');
	if (hard) *hard++ = 0;
	struct rlimit r = { (rlim_t) atoll(value), (rlim_t) atoll(hard ? hard : value) };
	if (setrlimit(which, &r)) fail("setrlimit");
}

/* One message: the names as its text, the descriptors beside it. They get the numbers from 3 on. */
static void take(const char *path) {
	static char names[65536];
	static union { struct cmsghdr h; char b[CMSG_SPACE(253 * sizeof(int))]; } space;
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	strncpy(a.sun_path, path, sizeof a.sun_path - 1);
	int s = socket(AF_UNIX, SOCK_STREAM, 0), all[253], n = 0;
	if (s < 0 || connect(s, (struct sockaddr *) &a, sizeof a)) fail(path);
	struct iovec v = { names, sizeof names - 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = space.b, .msg_controllen = sizeof space.b };
	ssize_t got = recvmsg(s, &m, 0);
	if (got < 0) fail("recvmsg");
	names[got] = 0;
	close(s);
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		n = (int) ((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(all, CMSG_DATA(c), (size_t) n * sizeof(int));
	}
	for (int i = 0; i < n; i++) {
		int high = fcntl(all[i], F_DUPFD, 1000);
		if (high < 0) fail("F_DUPFD");
		close(all[i]);
		all[i] = high;
	}
	char b[32];
	for (int i = 0; i < n; i++) {
		if (dup2(all[i], 3 + i) < 0) fail("dup2");
		close(all[i]);
	}
	snprintf(b, sizeof b, "%d", n);
	setenv("LISTEN_FDS", b, 1);
	setenv("LISTEN_FDNAMES", names, 1);
	snprintf(b, sizeof b, "%d", getpid());
	setenv("LISTEN_PID", b, 1);
}

static int launch(char **w) {
	uid_t uid = (uid_t) -1;
	gid_t gid = (gid_t) -1;
	int survive = 0;
	char *nproc = NULL;
	if (setsid() < 0) fail("setsid");
	/* whatever the person's shell or the test runner ignores or blocks is not part of the test */
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int s = 1; s < 32; s++) signal(s, SIG_DFL);
	for (; *w && strcmp(*w, "--"); w++) {
		char *v = strchr(*w, '=');
		if (v) *v++ = 0;
		if (!strcmp(*w, "survive")) survive = 1;
		else if (!v) { fprintf(stderr, "usher: bad word %s\n", *w); return 125; }
		else if (!strcmp(*w, "nofile")) limit(RLIMIT_NOFILE, v);
		else if (!strcmp(*w, "fsize")) limit(RLIMIT_FSIZE, v);
		else if (!strcmp(*w, "nproc")) nproc = v;
		else if (!strcmp(*w, "umask")) umask((mode_t) strtol(v, NULL, 8));
		else if (!strcmp(*w, "nice")) { if (setpriority(PRIO_PROCESS, 0, atoi(v))) fail("setpriority"); }
		else if (!strcmp(*w, "uid")) uid = (uid_t) atoi(v);
		else if (!strcmp(*w, "gid")) gid = (gid_t) atoi(v);
		else if (!strcmp(*w, "ignore")) signal(atoi(v), SIG_IGN);
		else if (!strcmp(*w, "block")) {
			sigset_t s;
			sigemptyset(&s);
			sigaddset(&s, atoi(v));
			sigprocmask(SIG_BLOCK, &s, NULL);
		}
		else if (!strcmp(*w, "passed")) take(v);
		else if (!strcmp(*w, "open")) {
			char *path = strchr(v, ':');
			int fd = path ? open(path + 1, O_RDWR | O_CREAT, 0600) : -1, want = atoi(v);
			if (fd < 0 || dup2(fd, want) != want) fail(v);
			if (fd != want) close(fd);
		}
		else { fprintf(stderr, "usher: bad word %s\n", *w); return 125; }
	}
	if (gid != (gid_t) -1 && (setgroups(0, NULL) || setgid(gid))) fail("setgid");
	if (uid != (uid_t) -1 && setuid(uid)) fail("setuid");
	if (nproc) limit(RLIMIT_NPROC, nproc);
	if (!survive && prctl(PR_SET_PDEATHSIG, SIGKILL)) fail("prctl");
	if (!*w || !w[1]) return 125;
	execvp(w[1], w + 1);
	fail(w[1]);
	return 125;
}

/* Whether the process was started on behalf of DIR. Reads its environment and its program; both vanish with it. */
static int belongs(const char *pid, const char *dir, const char *marker) {
	static char b[1 << 20];
	char path[300], exe[4096];
	snprintf(path, sizeof path, "/proc/%s/exe", pid);
	ssize_t n = readlink(path, exe, sizeof exe - 1);
	if (n > 0) {
		exe[n] = 0;
		size_t l = strlen(dir);
		if (!strncmp(exe, dir, l) && exe[l] == '/') return 1;
	}
	snprintf(path, sizeof path, "/proc/%s/environ", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) return 0;
	size_t k = 0;
	while (k < sizeof b - 1 && (n = read(fd, b + k, sizeof b - 1 - k)) > 0) k += (size_t) n;
	close(fd);
	b[k] = 0;
	for (size_t i = 0; i < k; i += strlen(b + i) + 1) if (!strcmp(b + i, marker)) return 1;
	return 0;
}

/* Kills each once more; gives the number that were there. A pidfd makes sure that no recycled pid is hit. */
static int sweep(const char *dir, const char *marker) {
	int found = 0;
	DIR *d = opendir("/proc");
	if (!d) fail("/proc");
	for (struct dirent *e; (e = readdir(d));) {
		long pid = atol(e->d_name);
		if (pid <= 1 || pid == getpid() || !belongs(e->d_name, dir, marker)) continue;
		int fd = (int) syscall(SYS_pidfd_open, (pid_t) pid, 0);
		if (fd < 0) continue;
		if (belongs(e->d_name, dir, marker)) {
			found++;
			syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
		}
		close(fd);
	}
	closedir(d);
	return found;
}

static int keep(const char *dir) {
	char marker[4200], seal[4200], b[64];
	setsid();
	unsetenv("WITNESS_DIR");
	for (int s = 1; s < 32; s++) if (s != SIGCHLD) signal(s, SIG_IGN);
	while (read(0, b, sizeof b) > 0) continue;
	snprintf(marker, sizeof marker, "WITNESS_DIR=%s", dir);
	for (int i = 0; i < 2000 && sweep(dir, marker); i++) {
		struct timespec t = { 0, 5000000 };
		nanosleep(&t, NULL);
	}
	snprintf(seal, sizeof seal, "%s/.test-bed", dir);
	if (access(seal, F_OK)) return 1;
	execlp("rm", "rm", "-rf", "--one-file-system", "--", dir, (char *) NULL);
	return 1;
}

static int hog(const char *what, int n) {
	int got = 0;
	char b[64];
	for (; got < n; got++) {
		if (!strcmp(what, "inotify")) { if (inotify_init1(IN_CLOEXEC) < 0) break; }
		else {
			pid_t p = fork();
			if (p < 0) break;
			if (p == 0) { prctl(PR_SET_PDEATHSIG, SIGKILL); for (;;) pause(); }
		}
	}
	printf("%d\n", got);
	fflush(stdout);
	while (read(0, b, sizeof b) > 0) continue;
	return 0;
}

int main(int argc, char **argv) {
	if (argc > 2 && !strcmp(argv[1], "launch")) return launch(argv + 2);
	if (argc == 3 && !strcmp(argv[1], "keep")) return keep(argv[2]);
	if (argc == 4 && !strcmp(argv[1], "hog")) return hog(argv[2], atoi(argv[3]));
	fprintf(stderr, "usher: see the head of usher.c\n");
	return 125;
}
