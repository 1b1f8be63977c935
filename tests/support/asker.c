/* Asks the kernel for things and says what it answers: one line "NAME ERRNO" for each argument, 0 where it worked.
 *
 * Every attempt is harmless where it is allowed: wrong pointers, nothing to act on, or this process alone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char here[] = "/tmp/asker.XXXXXX";

static void *nothing(void *arg) { return arg; }

/* The status of a child that `act` ends: 1000 and its signal where it was killed. */
static int in_child(int (*act)(void)) {
	pid_t p = fork();
	if (p == 0) _exit(act());
	int status = 0;
	waitpid(p, &status, 0);
	return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int try_unshare_user(void) { return unshare(CLONE_NEWUSER) ? errno : 0; }
static int try_unshare_mount(void) { return unshare(CLONE_NEWNS) ? errno : 0; }
static int try_fifo(void) { struct sched_param p = { 1 }; return sched_setscheduler(0, SCHED_FIFO, &p) ? errno : 0; }
static int try_fifo_reset(void) { struct sched_param p = { 1 }; return sched_setscheduler(0, SCHED_FIFO | 0x40000000, &p) ? errno : 0; }
static int try_batch(void) { struct sched_param p = { 0 }; return sched_setscheduler(0, SCHED_BATCH | 0x40000000, &p) ? errno : 0; }
static int try_personality(void) { return personality(ADDR_NO_RANDOMIZE) < 0 ? errno : 0; }
static int try_clone_user(void) {
	long p = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
	if (p == 0) _exit(0);
	if (p < 0) return errno;
	waitpid((pid_t) p, NULL, 0);
	return 0;
}
#if defined(__x86_64__)
/* The machine of 32 bits: its 20 is getpid. */
static int try_i386(void) {
	long r;
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(20) : "memory");
	return r < 0 ? (int) -r : 0;
}
#endif

static long call(long r) { return r < 0 ? errno : 0; }
static long fd_of(int fd) {
	if (fd < 0) return errno;
	close(fd);
	return 0;
}

static long ask(const char *what) {
	long args[12] = { 0 };
	if (!strncmp(what, "socket-", 7)) return fd_of(socket(atoi(what + 7), SOCK_DGRAM, 0));
	if (!strcmp(what, "socketpair")) { int two[2]; return call(socketpair(AF_UNIX, SOCK_STREAM, 0, two)); }
	if (!strcmp(what, "unshare-user")) return in_child(try_unshare_user);
	if (!strcmp(what, "unshare-mount")) return in_child(try_unshare_mount);
	if (!strcmp(what, "unshare-files")) return call(unshare(CLONE_FILES));
	if (!strcmp(what, "clone-user")) return in_child(try_clone_user);
	if (!strcmp(what, "clone3")) return call(syscall(SYS_clone3, args, 0)); /* EINVAL: no size */
	if (!strcmp(what, "setns")) return call(syscall(SYS_setns, -1, 0)); /* EBADF */
	if (!strcmp(what, "setns-user")) return call(syscall(SYS_setns, -1, CLONE_NEWUSER));
	if (!strcmp(what, "thread")) { pthread_t t; int e = pthread_create(&t, NULL, nothing, NULL); if (!e) pthread_join(t, NULL); return e; }
	if (!strcmp(what, "mount")) return call(syscall(SYS_mount, 0, 0, 0, 0, 0)); /* EFAULT or EPERM */
	if (!strcmp(what, "chroot")) return call(syscall(SYS_chroot, "/nowhere/at/all"));
	if (!strcmp(what, "ptrace")) return call(syscall(SYS_ptrace, -1, 0, 0, 0)); /* ESRCH */
	if (!strcmp(what, "bpf")) return call(syscall(SYS_bpf, -1, 0, 0)); /* EINVAL or EPERM */
	if (!strcmp(what, "userfaultfd")) return call(syscall(SYS_userfaultfd, -1)); /* EINVAL or EPERM */
	if (!strcmp(what, "io_uring_setup")) return call(syscall(SYS_io_uring_setup, 0, 0)); /* EFAULT */
	if (!strcmp(what, "keyctl")) return call(syscall(SYS_keyctl, 0, -3, 0)); /* the id of the session keyring */
	if (!strcmp(what, "add_key")) return call(syscall(SYS_add_key, 0, 0, 0, 0, 0)); /* EFAULT */
	if (!strcmp(what, "open_by_handle_at")) return call(syscall(SYS_open_by_handle_at, -1, 0, 0)); /* EFAULT or EPERM */
	if (!strcmp(what, "process_vm_readv")) return call(syscall(SYS_process_vm_readv, getpid(), 0, 0, 0, 0, 0));
	if (!strcmp(what, "adjtimex")) return call(syscall(SYS_adjtimex, 0)); /* EFAULT */
	if (!strcmp(what, "syslog")) return call(syscall(SYS_syslog, -1, 0, 0)); /* EINVAL or EPERM */
	if (!strcmp(what, "kcmp")) return call(syscall(SYS_kcmp, getpid(), getpid(), -1, 0, 0)); /* EINVAL */
	if (!strcmp(what, "personality")) return in_child(try_personality);
	if (!strcmp(what, "personality-query")) return call(personality(0xffffffff));
	if (!strcmp(what, "tiocsti")) return call(ioctl(0, TIOCSTI, "x")); /* ENOTTY */
	if (!strcmp(what, "tiocsti-high")) return call(syscall(SYS_ioctl, 0, TIOCSTI | 1ull << 32, "x"));
	if (!strcmp(what, "fionread")) { int n; int two[2]; if (pipe(two)) return errno; return call(ioctl(two[0], FIONREAD, &n)); }
	if (!strcmp(what, "fifo")) return in_child(try_fifo);
	if (!strcmp(what, "fifo-reset")) return in_child(try_fifo_reset);
	if (!strcmp(what, "batch")) return in_child(try_batch);
	if (!strcmp(what, "sched_setattr")) return call(syscall(SYS_sched_setattr, 0, 0, 0)); /* EINVAL */
	if (!strcmp(what, "chmod")) return call(fchmodat(AT_FDCWD, here, 0600, 0));
	if (!strcmp(what, "chmod-suid")) return call(fchmodat(AT_FDCWD, here, 04700, 0));
	if (!strcmp(what, "open-sgid")) return fd_of(openat(AT_FDCWD, here, O_CREAT | O_WRONLY, 02700));
	if (!strcmp(what, "open-tmp-suid")) return fd_of(openat(AT_FDCWD, "/tmp", O_TMPFILE | O_WRONLY, 04700));
	if (!strcmp(what, "open")) return fd_of((int) syscall(SYS_openat, AT_FDCWD, here, O_RDONLY, 06000)); /* not a mode */
	if (!strcmp(what, "open-create")) return fd_of(openat(AT_FDCWD, here, O_CREAT | O_WRONLY, 0600));
	if (!strcmp(what, "openat2")) return call(syscall(SYS_openat2, AT_FDCWD, here, 0, 0)); /* EINVAL */
	if (!strcmp(what, "mmap-wx")) return mmap(0, 4096, PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? errno : 0;
	if (!strcmp(what, "mprotect-x")) {
		void *p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		return call(mprotect(p, 4096, PROT_READ | PROT_EXEC));
	}
	if (!strcmp(what, "setuid")) return call(setuid(getuid()));
	if (!strcmp(what, "statmount")) return call(syscall(457, 0, 0, 0, 0)); /* EFAULT */
	if (!strcmp(what, "unknown")) return call(syscall(500)); /* ENOSYS */
	if (!strcmp(what, "far")) return call(syscall(5000)); /* ENOSYS */
#if defined(__x86_64__)
	if (!strcmp(what, "x32")) return call(syscall(0x40000000 + SYS_getpid)); /* ENOSYS, or the call */
	if (!strcmp(what, "i386")) return in_child(try_i386);
#endif
	if (!strncmp(what, "read=", 5)) return fd_of(open(what + 5, O_RDONLY));
	if (!strncmp(what, "write=", 6)) return fd_of(open(what + 6, O_WRONLY | O_CREAT, 0600));
	if (!strncmp(what, "signal=", 7)) return call(kill(atoi(what + 7), 0));
	if (!strcmp(what, "bind-80")) {
		int s = socket(AF_INET, SOCK_STREAM, 0);
		unsigned char at[16] = { AF_INET, 0, 0, 1, 127, 0, 0, 1 };
		return call(bind(s, (struct sockaddr *) at, sizeof at)); /* port 1: EADDRINUSE at worst */
	}
	return -1;
}

static void show(const char *path) {
	char line[4096];
	FILE *f = fopen(path, "r");
	while (f && fgets(line, sizeof line, f)) fputs(line, stdout);
	if (f) fclose(f);
}

int main(int argc, char **argv) {
	int fd = mkstemp(here);
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "status")) { show("/proc/self/status"); continue; }
		if (!strcmp(argv[i], "limits")) { show("/proc/self/limits"); continue; }
		if (!strcmp(argv[i], "oom-score")) { printf("oom-score "); show("/proc/self/oom_score_adj"); continue; }
		if (!strcmp(argv[i], "nice")) { printf("nice %d\n", getpriority(PRIO_PROCESS, 0)); continue; }
		if (!strcmp(argv[i], "secure-bits")) { printf("secure-bits %d\n", prctl(PR_GET_SECUREBITS)); continue; }
		errno = 0;
		long answer = ask(argv[i]);
		printf("%s %ld\n", argv[i], answer);
	}
	if (fd >= 0) unlink(here);
	return 0;
}
