/*
 * witness.c - a vassal that writes down what it was given and what it is told.
 *
 * An emperor under test execs it (as wrapper or binary path) in place of an application server. Everything
 * goes to the directory named by WITNESS_DIR, or by argv[0] where the environment was emptied:
 *
 *   log/given.PID.NS one line "key value" for each thing found at entry, before anything was opened or changed
 *   log/events       one line per step: MONOTONIC_NS REALTIME_NS PID NAME EVENT [ARGUMENT]
 *   script/NAME      what to do, by the base name of the vassal's file, else script/default, else "say=1,5,17"
 *
 * Blanks, '%', control and non-ASCII bytes of a value are written %XX, so every line is one write and splits
 * at blanks.
 *
 * A script is words, obeyed in order; "after=MS" makes the words behind it wait while events are served:
 *   wait         the words behind it wait for SIGUSR1
 *   say=1,5,17   bytes to the emperor          flood=N     N heartbeats at once, as fast as they are taken
 *   beat=MS      byte 26 each MS from now on   close       close the link, live on
 *   exit=N       end with that status          kill=N      end by that signal
 *   fork         a child goes on, link open; this one ends        leave   the same, the child has no link
 *   daemon       as fork, in a session of its own, without link
 *   deaf         ignore bytes 0 and 2          noreload    ignore byte 1
 *   reexec       exec again at byte 1, as uWSGI does               linger  ignore the end of the link
 *   immune       ignore INT, TERM and QUIT     slow=MS     told to stop: close the link, need MS more
 *   blind        leave alone who connects to a listening standard input
 *   reads        end with 1 unless the file can be read and holds "[uwsgi]", as uWSGI does
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char dir[4096], name[4096 * 3], base[4096];
static int events = -1, efd = -1, sfd = -1, lfd = -1;
static char **args;

static uint64_t clk(clockid_t id) {
	struct timespec t;
	clock_gettime(id, &t);
	return (uint64_t) t.tv_sec * 1000000000ull + (uint64_t) t.tv_nsec;
}

static size_t escape(char *out, size_t room, const char *in, size_t n) {
	static const char hex[] = "0123456789abcdef";
	size_t o = 0;
	for (size_t i = 0; i < n && o + 4 < room; i++) {
		unsigned char c = (unsigned char) in[i];
		if (c > ' ' && c < 127 && c != '%') { out[o++] = (char) c; continue; }
		out[o++] = '%'; out[o++] = hex[c >> 4]; out[o++] = hex[c & 15];
	}
	out[o] = 0;
	return o;
}

/* ---- what was given ------------------------------------------------------------------------------------ */

static char *page;
static size_t used, size;
static void say(const char *key, const char *value, size_t n) {
	if (used + 3 * n + strlen(key) + 8 > size) {
		size = 2 * (used + 3 * n + 4096);
		page = realloc(page, size);
		if (!page) _exit(111);
	}
	used += (size_t) sprintf(page + used, "%s ", key);
	used += escape(page + used, size - used, value, n);
	page[used++] = '\n';
}
static void says(const char *key, const char *value) { say(key, value, strlen(value)); }

/* Gives whether it could be read and holds a section of uWSGI's. */
static int slurp(const char *key, const char *path) {
	static char b[262144];
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) return 0;
	size_t n = 0;
	ssize_t r;
	while (n < sizeof b && (r = read(fd, b + n, sizeof b - n)) > 0) n += (size_t) r;
	close(fd);
	say(key, b, n);
	return memmem(b, n, "[uwsgi]", 7) != NULL;
}

static void descriptors(void) {
	/* "NUMBER CLOEXEC FLAGS(octal) LISTENING TARGET"; the list is taken before anything else is opened */
	DIR *d = opendir("/proc/self/fd");
	if (!d) return;
	for (struct dirent *e; (e = readdir(d));) {
		int fd = atoi(e->d_name);
		if (e->d_name[0] == '.' || fd == dirfd(d)) continue;
		char path[64], target[4096], line[4400];
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		ssize_t n = readlink(path, target, sizeof target - 1);
		if (n < 0) continue;
		target[n] = 0;
		int on = 0;
		socklen_t l = sizeof on;
		if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &l)) on = 0;
		snprintf(line, sizeof line, "%d %d %o %d %s", fd, fcntl(fd, F_GETFD) & FD_CLOEXEC, fcntl(fd, F_GETFL), on, target);
		says("fd", line);
	}
	closedir(d);
}

static int fine;

static void record(char **envp, const char *config) {
	char b[4400];
	snprintf(b, sizeof b, "%llu", (unsigned long long) clk(CLOCK_PROCESS_CPUTIME_ID) / 1000);
	says("cpu_us", b);
	descriptors();
	for (char **a = args; *a; a++) says("argv", *a);
	for (char **e = envp; *e; e++) says("env", *e);
	if (getcwd(b, sizeof b)) says("cwd", b);
	slurp("status", "/proc/self/status");
	slurp("limits", "/proc/self/limits");
	int sig = -1;
	prctl(PR_GET_PDEATHSIG, &sig);
	snprintf(b, sizeof b, "%d", sig);
	says("pdeathsig", b);
	snprintf(b, sizeof b, "%d", getpid()); says("pid", b);
	snprintf(b, sizeof b, "%d", getppid()); says("ppid", b);
	snprintf(b, sizeof b, "%d", getpgrp()); says("pgrp", b);
	snprintf(b, sizeof b, "%d", getsid(0)); says("sid", b);
	snprintf(b, sizeof b, "%d", getpriority(PRIO_PROCESS, 0)); says("nice", b);
	static const char *const ns[] = { "mnt", "pid", "uts", "ipc", "net", "user", "cgroup" };
	for (size_t i = 0; i < sizeof ns / sizeof *ns; i++) {
		char path[64], target[256], line[300];
		snprintf(path, sizeof path, "/proc/self/ns/%s", ns[i]);
		ssize_t n = readlink(path, target, sizeof target - 1);
		if (n < 0) continue;
		target[n] = 0;
		snprintf(line, sizeof line, "%s", target);
		says("ns", line);
	}
	if (config) {
		struct stat st;
		if (stat(config, &st) == 0 && S_ISREG(st.st_mode)) fine = slurp("config", config);
	}
}

/* ---- the log ------------------------------------------------------------------------------------------- */

static void event(const char *what, const char *arg) {
	char line[sizeof name + 256];
	int n = snprintf(line, sizeof line, "%llu %llu %d %s %s%s%s\n", (unsigned long long) clk(CLOCK_MONOTONIC),
		(unsigned long long) clk(CLOCK_REALTIME), getpid(), name, what, *arg ? " " : "", arg);
	if (n > 0 && write(events, line, (size_t) n) < 0) _exit(113);
}
static void eventn(const char *what, long arg) {
	char b[32];
	snprintf(b, sizeof b, "%ld", arg);
	event(what, b);
}
static void leave(int code) {
	eventn("exit", code);
	_exit(code);
}
static void hang_up(void) {
	if (efd >= 0) close(efd);
	efd = -1;
}
static void tell(unsigned char b) {
	if (efd < 0) return;
	eventn("said", b);
	if (send(efd, &b, 1, MSG_NOSIGNAL) != 1) eventn("deafened", errno);
}

/* ---- the script ---------------------------------------------------------------------------------------- */

static char script[8192], *cursor = script;
static int deaf, noreload, reexec, linger, immune, waiting;
static long slow, beat;
static uint64_t resume_at, next_beat, flood;

static void read_script(const char *which) {
	char path[4096 * 4];
	snprintf(path, sizeof path, "%s/script/%s", dir, which);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) return;
	ssize_t n = read(fd, script, sizeof script - 1);
	script[n > 0 ? n : 0] = 0;
	close(fd);
}

static void fork_off(int keep_link, int session) {
	pid_t p = fork();
	if (p != 0) leave(0);
	if (session) setsid();
	if (!keep_link) hang_up();
	event("child", "");
}

static void obey(char *word) {
	char *value = strchr(word, '=');
	if (value) *value++ = 0;
	long n = value ? atol(value) : 0;
	if (!strcmp(word, "say")) {
		for (char *s = strtok(value, ","); s; s = strtok(NULL, ",")) tell((unsigned char) atoi(s));
	}
	else if (!strcmp(word, "after")) resume_at = clk(CLOCK_MONOTONIC) + (uint64_t) n * 1000000ull;
	else if (!strcmp(word, "wait")) { waiting = 1; event("waits", ""); }
	else if (!strcmp(word, "beat")) { beat = n; next_beat = clk(CLOCK_MONOTONIC); }
	else if (!strcmp(word, "flood")) flood = (uint64_t) n;
	else if (!strcmp(word, "close")) { hang_up(); event("closed", ""); }
	else if (!strcmp(word, "exit")) leave((int) n);
	else if (!strcmp(word, "kill")) { sigset_t s; sigfillset(&s); signal((int) n, SIG_DFL); sigprocmask(SIG_UNBLOCK, &s, NULL); raise((int) n); }
	else if (!strcmp(word, "fork")) fork_off(1, 0);
	else if (!strcmp(word, "leave")) fork_off(0, 0);
	else if (!strcmp(word, "daemon")) fork_off(0, 1);
	else if (!strcmp(word, "deaf")) deaf = 1;
	else if (!strcmp(word, "noreload")) noreload = 1;
	else if (!strcmp(word, "reexec")) reexec = 1;
	else if (!strcmp(word, "linger")) linger = 1;
	else if (!strcmp(word, "immune")) immune = 1;
	else if (!strcmp(word, "slow")) slow = n;
	else if (!strcmp(word, "blind")) lfd = -1;
	else if (!strcmp(word, "reads")) { if (!fine) leave(1); }
	else { event("unknown-word", word); leave(120); }
}

/* Obeys words until one asks for a pause or a signal, or the script ends. */
static void go_on(void) {
	resume_at = 0;
	while (*cursor && !resume_at && !waiting) {
		while (*cursor == ' ' || *cursor == '\n') cursor++;
		char *word = cursor;
		while (*cursor && *cursor != ' ' && *cursor != '\n') cursor++;
		if (*cursor) *cursor++ = 0;
		if (*word) obey(word);
	}
}

static void told_to_stop(void) {
	hang_up();
	if (slow) usleep((useconds_t) slow * 1000);
	leave(0);
}

static void told(unsigned char b) {
	eventn("got", b);
	if ((b == 0 || b == 2) && !deaf) told_to_stop();
	if (b != 1 || noreload) return;
	if (reexec) {
		sigset_t none;
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		execv("/proc/self/exe", args);
		leave(121);
	}
	tell(5);
}

static void serve(void) {
	for (;;) {
		struct pollfd p[3] = { { efd, (short) (POLLIN | (flood ? POLLOUT : 0)), 0 }, { sfd, POLLIN, 0 }, { lfd, POLLIN, 0 } };
		uint64_t next = resume_at;
		if (beat && (!next || next_beat < next)) next = next_beat;
		struct timespec to = { 0, 0 };
		if (next) {
			uint64_t now = clk(CLOCK_MONOTONIC), d = next > now ? next - now : 0;
			to.tv_sec = (time_t) (d / 1000000000ull);
			to.tv_nsec = (long) (d % 1000000000ull);
		}
		if (ppoll(p, 3, next ? &to : NULL, NULL) < 0) continue;
		if (p[0].revents & POLLOUT && flood) {
			char b[4096];
			memset(b, 26, sizeof b);
			ssize_t r = send(efd, b, flood < sizeof b ? flood : sizeof b, MSG_NOSIGNAL | MSG_DONTWAIT);
			if (r > 0 && (flood -= (uint64_t) r) == 0) event("flooded", "");
		}
		if (p[0].revents & (POLLIN | POLLHUP | POLLERR)) {
			/* one at a time, as uWSGI: what is behind a 1 is for the next image */
			unsigned char b;
			ssize_t k = read(efd, &b, 1);
			if (k <= 0) {
				event("lost", "");
				hang_up();
				if (!linger) leave(1);
			}
			else told(b);
		}
		if (p[1].revents) {
			struct signalfd_siginfo si;
			while (read(sfd, &si, sizeof si) == sizeof si) {
				eventn("signal", (long) si.ssi_signo);
				int polite = si.ssi_signo == SIGINT || si.ssi_signo == SIGTERM || si.ssi_signo == SIGQUIT;
				if (polite && !immune) told_to_stop();
				if (si.ssi_signo == SIGUSR1 && waiting) { waiting = 0; go_on(); }
			}
		}
		if (p[2].revents) {
			int c = accept4(0, NULL, NULL, SOCK_CLOEXEC);
			if (c >= 0) { event("accepted", ""); if (write(c, "ok\n", 3) == 3) close(c); }
		}
		uint64_t now = clk(CLOCK_MONOTONIC);
		if (beat && now >= next_beat) { tell(26); next_beat = now + (uint64_t) beat * 1000000ull; }
		if (resume_at && now >= resume_at) go_on();
	}
}

/* ---- entry --------------------------------------------------------------------------------------------- */

static const char *config_argument(int argc, char **argv) {
	static const char *const typed[] = { "--ini", "--xml", "--yaml", "--json", "--config" };
	const char *found = NULL;
	for (int i = 1; i + 1 < argc; i++) {
		for (size_t k = 0; k < sizeof typed / sizeof *typed; k++) if (!strcmp(argv[i], typed[k])) return argv[i + 1];
		if (!strcmp(argv[i], "--inherit")) found = argv[i + 1];
	}
	return found ? found : argc > 1 ? argv[argc - 1] : "?";
}

int main(int argc, char **argv, char **envp) {
	args = argv;
	const char *config = config_argument(argc, argv), *d = getenv("WITNESS_DIR"), *link = getenv("UWSGI_EMPEROR_FD");
	const char *plain = config;
	if (!strncmp(plain, "emperor://", 10)) plain += 10;
	else if (!strncmp(plain, "exec://", 7)) plain += 7;
	record(envp, plain);

	if (d) snprintf(dir, sizeof dir, "%s", d);
	else {
		snprintf(dir, sizeof dir, "%s", argv[0]);
		char *slash = strrchr(dir, '/');
		if (slash) *slash = 0;
	}
	escape(name, sizeof name, plain, strlen(plain));
	const char *slash = strrchr(plain, '/');
	escape(base, sizeof base, slash ? slash + 1 : plain, strlen(slash ? slash + 1 : plain));

	char path[4400], tmp[4500];
	uint64_t stamp = clk(CLOCK_MONOTONIC);
	snprintf(path, sizeof path, "%s/log/events", dir);
	events = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
	if (events < 0) return 112;
	snprintf(path, sizeof path, "%s/log/given.%d.%llu", dir, getpid(), (unsigned long long) stamp);
	snprintf(tmp, sizeof tmp, "%s.part", path);
	int fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, page, used) != (ssize_t) used || close(fd) || rename(tmp, path)) return 114;
	event("exec", strrchr(path, '/') + 1);

	if (link && *link) efd = atoi(link);
	sigset_t set;
	sigemptyset(&set);
	static const int watched[] = { SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGTERM, SIGALRM, SIGWINCH, SIGURG, SIGTSTP, SIGCONT };
	for (size_t i = 0; i < sizeof watched / sizeof *watched; i++) sigaddset(&set, watched[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	sfd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	signal(SIGCHLD, SIG_IGN);
	int on = 0;
	socklen_t l = sizeof on;
	if (getsockopt(0, SOL_SOCKET, SO_ACCEPTCONN, &on, &l) == 0 && on) lfd = 0;

	strcpy(script, "say=1,5,17");
	read_script("default");
	read_script(base);
	go_on();
	serve();
}
