/* processes.c - other tenants' processes, and the emperor's. */
#include "hostile.h"
#include <dirent.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/uio.h>

/* Calls `look` for every process of which the kernel shows something, until it finds what it looks for. */
static int each(int (*look)(int pid)) {
	DIR *all = opendir("/proc");
	if (!all) return errno;
	int answer = NOTHING;
	for (struct dirent *one; answer && (one = readdir(all));) {
		int pid = atoi(one->d_name);
		if (pid > 0 && pid != getpid() && pid != getppid()) answer = look(pid);
	}
	closedir(all);
	return answer ? NOTHING : 0;
}

static int is_victim(int pid) {
	char text[4096] = "";
	int fd = open(path("/proc/%d/cmdline", pid), O_RDONLY | O_CLOEXEC);
	if (fd < 0) return NOTHING;
	ssize_t got = read(fd, text, sizeof text - 1);
	close(fd);
	const char *second = got > 0 ? text + strlen(text) + 1 : text;
	return second < text + got && !strcmp(second, "victim") ? 0 : NOTHING;
}

static int see(void) { return each(is_victim); }

static int signal_of(int pid) { return pid ? ANSWER(kill(pid, 0)) : ESRCH; }
static int send_signal(void) { return signal_of(victim); }
static int emperor_signal(void) { return signal_of(emperor); }

static int pidfd_of(int pid) { return (int) syscall(SYS_pidfd_open, pid, 0); }

static int pidfd_signal(void) {
	int fd = pidfd_of(victim);
	return fd < 0 ? errno : ANSWER(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
}

/* Attached, it goes on running; our end lets it go. */
static int seize(int pid) { return ANSWER(ptrace(PTRACE_SEIZE, pid, 0, 0)); }
static int trace(void) { return seize(victim); }
static int emperor_trace(void) { return seize(emperor); }
static int init_trace(void) { return seize(1); }

static int memory_read(void) {
	char text[sizeof secret_in_memory] = "";
	struct iovec to = { text, sizeof text }, from = { secret_in_memory, sizeof secret_in_memory };
	if (process_vm_readv(victim, &to, 1, &from, 1, 0) < 0) return errno;
	return strcmp(text, SECRET) ? NOTHING : 0;
}

static int memory_write(void) {
	char same[] = SECRET;
	struct iovec from = { same, sizeof same }, to = { secret_in_memory, sizeof same };
	return ANSWER(process_vm_writev(victim, &from, 1, &to, 1, 0));
}

static int memory_file(void) { return opens(path("/proc/%d/mem", victim), O_RDWR); }
static int environment(void) { return opens(path("/proc/%d/environ", victim), O_RDONLY); }
static int command_line(void) { return opens(path("/proc/%d/cmdline", victim), O_RDONLY); }
static int emperor_memory(void) { return opens(path("/proc/%d/mem", emperor), O_RDWR); }
static int emperor_descriptors(void) { return opens(path("/proc/%d/fd", emperor), O_RDONLY | O_DIRECTORY); }

/* Number 3 is its link to the emperor: who has it speaks in its name. */
static int get_descriptor(int pid) {
	int fd = pidfd_of(pid);
	return fd < 0 ? errno : ANSWER(syscall(SYS_pidfd_getfd, fd, 3, 0));
}
static int descriptor(void) { return get_descriptor(victim); }
static int emperor_descriptor(void) { return get_descriptor(emperor); }

static int root_of(int pid) { return tells(path("/proc/%d/root" HIDDEN, pid)); }
static int victims_root(void) { return root_of(victim); }
static int anybodys_root(void) { return each(root_of); }
static int cwd_of(int pid) {
	for (int up = 0; up < 8; up++) {
		char *name = path("/proc/%d/cwd/", pid);
		for (int i = 0; i < up; i++) strcat(name, "../");
		strcat(name, HIDDEN + 1);
		if (!tells(name)) return 0;
	}
	return NOTHING;
}
static int anybodys_directory(void) { return each(cwd_of); }
static int init_root(void) { return root_of(1); }

/* A descriptor of process 1 beyond the first three. */
static int init_descriptors(void) {
	DIR *all = opendir("/proc/1/fd");
	if (!all) return errno;
	int answer = NOTHING;
	for (struct dirent *one; answer && (one = readdir(all));) {
		char to[256];
		if (atoi(one->d_name) > 2 && readlink(path("/proc/1/fd/%s", one->d_name), to, sizeof to) > 0) answer = 0;
	}
	return answer;
}

/* To what it is already. */
static int priority(void) {
	errno = 0;
	int now = getpriority(PRIO_PROCESS, (id_t) victim);
	return errno ? errno : ANSWER(setpriority(PRIO_PROCESS, (id_t) victim, now));
}

static int affinity(void) {
	cpu_set_t set;
	if (sched_getaffinity(victim, sizeof set, &set)) return errno;
	return ANSWER(sched_setaffinity(victim, sizeof set, &set));
}

static int limits_of(void) {
	struct rlimit limit;
	return ANSWER(prlimit(victim, RLIMIT_NOFILE, NULL, &limit));
}

static int compare(void) { return ANSWER(syscall(SYS_kcmp, getpid(), victim, 0, 0, 0)); }

/* What it has is what it gets. */
static int oom_score(void) {
	char text[16] = "";
	int fd = open(path("/proc/%d/oom_score_adj", victim), O_RDWR | O_CLOEXEC);
	if (fd < 0) return errno;
	ssize_t got = read(fd, text, sizeof text);
	return got < 0 ? errno : ANSWER(write(fd, text, (size_t) got));
}

const struct attempt processes[] = {
	{ "process-see", see },
	{ "process-command-line", command_line },
	{ "process-environment", environment },
	{ "process-signal", send_signal },
	{ "process-signal-pidfd", pidfd_signal },
	{ "process-trace", trace },
	{ "process-memory-read", memory_read },
	{ "process-memory-write", memory_write },
	{ "process-memory-file", memory_file },
	{ "process-descriptor", descriptor },
	{ "process-root", victims_root },
	{ "process-any-root", anybodys_root },
	{ "process-any-directory", anybodys_directory },
	{ "process-priority", priority },
	{ "process-affinity", affinity },
	{ "process-limits", limits_of },
	{ "process-compare", compare },
	{ "process-oom-score", oom_score },
	{ "emperor-signal", emperor_signal },
	{ "emperor-trace", emperor_trace },
	{ "emperor-memory", emperor_memory },
	{ "emperor-descriptors", emperor_descriptors },
	{ "emperor-descriptor", emperor_descriptor },
	{ "init-trace", init_trace },
	{ "init-root", init_root },
	{ "init-descriptors", init_descriptors },
	{ NULL, NULL },
};
