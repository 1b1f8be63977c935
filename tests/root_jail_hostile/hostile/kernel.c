/* kernel.c - what only an administrator may ask of the kernel, and ways around a filter of system calls. */
#include "hostile.h"
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/swap.h>
#include <sys/time.h>
#include <sys/timex.h>

#ifdef __x86_64__
#include <sys/io.h>
#endif

/* Mounts: in a child, on a directory of its own; what should come of it is taken away again. */
static int mounts(void) {
	const char *dir = path("%s/mount", own);
	mkdir(dir, 0700);
	int answer = ANSWER(mount("none", dir, "tmpfs", MS_NOSUID | MS_NODEV, "size=64k"));
	if (!answer) umount2(dir, MNT_DETACH);
	rmdir(dir);
	return answer;
}
static int mount_proc(void) {
	const char *dir = path("%s/proc", own);
	mkdir(dir, 0700);
	int answer = ANSWER(mount("none", dir, "proc", 0, NULL));
	if (!answer) umount2(dir, MNT_DETACH);
	rmdir(dir);
	return answer;
}
/* Nothing is mounted there: EINVAL comes after the permission. So it is with those that give wrong arguments below. */
static int allowed(long answer, int harmless) { return answer >= 0 || errno == harmless ? 0 : errno; }
static int remount(void) { return allowed(mount(NULL, "/usr/lib", NULL, MS_REMOUNT | MS_BIND, NULL), EINVAL); }
static int unmount(void) { return allowed(umount2("/usr/lib", 0), EINVAL); }
static int pivot(void) { return allowed(syscall(SYS_pivot_root, "/nonexistent", "/nonexistent"), ENOENT); }
static int change_root(void) { return ANSWER(chroot("/")); }
static int new_mount(void) { return ANSWER(syscall(SYS_fsopen, "tmpfs", 0)); }
static int clone_tree(void) { return ANSWER(syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */)); }

static int load_bpf(void) {
	struct bpf_insn code[] = { { .code = 0xb7 }, { .code = 0x95 } }; /* r0 = 0; exit */
	union bpf_attr a;
	memset(&a, 0, sizeof a);
	a.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
	a.insn_cnt = 2;
	a.insns = (unsigned long) code;
	a.license = (unsigned long) "GPL";
	return ANSWER(syscall(SYS_bpf, BPF_PROG_LOAD, &a, sizeof a));
}

static int perf(void) {
	struct perf_event_attr a = { .type = PERF_TYPE_SOFTWARE, .size = sizeof a, .config = PERF_COUNT_SW_CPU_CLOCK };
	a.exclude_kernel = 1;
	return ANSWER(syscall(SYS_perf_event_open, &a, 0, -1, -1, 0));
}

static int page_faults(void) { return ANSWER(syscall(SYS_userfaultfd, 1 /* UFFD_USER_MODE_ONLY */ | O_CLOEXEC)); }
static int io_uring(void) {
	char parameters[120] = { 0 };
	return ANSWER(syscall(SYS_io_uring_setup, 1, parameters));
}

static int load_kernel(void) { return allowed(syscall(SYS_kexec_load, 0, 1u << 20, NULL, ~0ul), EINVAL); }
static int load_module(void) { return allowed(syscall(SYS_init_module, "", 0, ""), ENOEXEC); }
static int load_module_file(void) { return allowed(syscall(SYS_finit_module, -1, "", 0), EBADF); }
static int remove_module(void) { return allowed(syscall(SYS_delete_module, "hostile-none", O_NONBLOCK), ENOENT); }
static int restart(void) { return allowed(syscall(SYS_reboot, 0, 0, 0, NULL), EINVAL); }
static int swap_on(void) { return allowed(swapon("/nonexistent", 0), ENOENT); }
static int swap_off(void) { return allowed(swapoff("/nonexistent"), ENOENT); }
static int accounts(void) { return allowed(acct("/nonexistent"), ENOENT); }
/* Neither a time nor a zone. */
static int set_time(void) { return ANSWER(syscall(SYS_settimeofday, NULL, NULL)); }
static int tune_clock(void) {
	struct timex none = { .modes = ADJ_TICK, .tick = 0 };
	return allowed(adjtimex(&none), EINVAL);
}
static int host_name(void) {
	char name[256];
	return gethostname(name, sizeof name) ? errno : ANSWER(sethostname(name, strlen(name)));
}
static int kernel_log(void) { char one; return ANSWER(klogctl(3, &one, 1)); }
#ifdef __x86_64__
static int ports(void) { return ANSWER(ioperm(0x80, 1, 1)); }
#else
static int ports(void) { return ENOSYS; }
#endif
static int randomize(void) { return ANSWER((long) syscall(SYS_personality, 0x0040000)); /* ADDR_NO_RANDOMIZE */ }

/* Namespaces of its own: more of the kernel to be attacked, and rights in there. */
static int unshares(int flags) { return ANSWER(unshare(flags)); }
static int own_users(void) { return unshares(CLONE_NEWUSER); }
static int own_users_and_mounts(void) { return unshares(CLONE_NEWUSER | CLONE_NEWNS); }
static int own_mounts(void) { return unshares(CLONE_NEWNS); }
static int own_network(void) { return unshares(CLONE_NEWNET); }
static int own_pids(void) { return unshares(CLONE_NEWPID); }
static int child(long pid) {
	if (pid < 0) return errno;
	if (!pid) _exit(0);
	waitpid((pid_t) pid, NULL, 0);
	return 0;
}
static int clone_users(void) { return child(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0)); }
static int clone3_users(void) {
	unsigned long long arguments[11] = { CLONE_NEWUSER, 0, 0, 0, SIGCHLD };
	return child(syscall(SYS_clone3, arguments, 64));
}
static int enters(const char *name) {
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? errno : ANSWER(setns(fd, 0));
}
static int enter_mounts(void) { return enters(path("/proc/%d/ns/mnt", victim)); }
static int enter_init(void) { return enters("/proc/1/ns/mnt"); }
static int enter_by_pidfd(void) {
	int fd = (int) syscall(SYS_pidfd_open, victim, 0);
	return fd < 0 ? errno : ANSWER(setns(fd, CLONE_NEWIPC | CLONE_NEWNET));
}

/* System calls by other numbers than those a filter may look at. */
#ifdef __x86_64__
static int by_x32(void) { return ANSWER(syscall(0x40000000 + SYS_getpid)); }
static int by_ia32(void) {
	long answer = 20; /* getpid */
	__asm__ volatile("int $0x80" : "+a"(answer) : "b"(0), "c"(0), "d"(0) : "memory", "r8", "r9", "r10", "r11");
	return answer < 0 ? (int) -answer : 0;
}
#else
static int by_x32(void) { return ENOSYS; }
static int by_ia32(void) { return ENOSYS; }
#endif

static int sysrq(void) { return opens("/proc/sysrq-trigger", O_WRONLY); }
static int core_pattern(void) { return opens("/proc/sys/kernel/core_pattern", O_WRONLY); }
static int caches(void) { return opens("/proc/sys/vm/drop_caches", O_WRONLY); }
static int forwarding(void) { return opens("/proc/sys/net/ipv4/ip_forward", O_WRONLY); }
static int kernel_memory(void) { return opens("/proc/kcore", O_RDONLY); }
static int sys_write(void) { return opens("/sys/kernel/mm/transparent_hugepage/enabled", O_WRONLY); }

/* To put itself into another group, out of its limits. */
static int control_group(void) {
	static const char *const all[] = {
		"/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/unified/cgroup.procs", "/sys/fs/cgroup/pids/cgroup.procs",
		"/sys/fs/cgroup/memory/cgroup.procs",
	};
	int answer = ENOENT;
	for (size_t i = 0; answer && i < sizeof all / sizeof *all; i++) {
		int one = opens(all[i], O_WRONLY);
		if (one != ENOENT) answer = one;
	}
	return answer;
}

const struct attempt kernel[] = {
	{ "mount", mounts },
	{ "mount-proc", mount_proc },
	{ "mount-remount", remount },
	{ "mount-new-api", new_mount },
	{ "mount-clone-tree", clone_tree },
	{ "mount-undo", unmount },
	{ "mount-pivot-root", pivot },
	{ "mount-chroot", change_root },
	{ "kernel-bpf", load_bpf },
	{ "kernel-perf", perf },
	{ "kernel-userfaultfd", page_faults },
	{ "kernel-io-uring", io_uring },
	{ "kernel-kexec", load_kernel },
	{ "kernel-module", load_module },
	{ "kernel-module-file", load_module_file },
	{ "kernel-module-remove", remove_module },
	{ "kernel-reboot", restart },
	{ "kernel-swap-on", swap_on },
	{ "kernel-swap-off", swap_off },
	{ "kernel-accounting", accounts },
	{ "kernel-time", set_time },
	{ "kernel-clock", tune_clock },
	{ "kernel-host-name", host_name },
	{ "kernel-log", kernel_log },
	{ "kernel-ports", ports },
	{ "kernel-personality", randomize },
	{ "namespace-user", own_users },
	{ "namespace-user-and-mount", own_users_and_mounts },
	{ "namespace-user-clone", clone_users },
	{ "namespace-user-clone3", clone3_users },
	{ "namespace-mount", own_mounts },
	{ "namespace-network", own_network },
	{ "namespace-pid", own_pids },
	{ "namespace-enter", enter_mounts },
	{ "namespace-enter-init", enter_init },
	{ "namespace-enter-pidfd", enter_by_pidfd },
	{ "filter-x32", by_x32 },
	{ "filter-ia32", by_ia32 },
	{ "proc-sysrq", sysrq },
	{ "proc-core-pattern", core_pattern },
	{ "proc-caches", caches },
	{ "proc-forwarding", forwarding },
	{ "proc-kernel-memory", kernel_memory },
	{ "sys-write", sys_write },
	{ "sys-control-group", control_group },
	{ NULL, NULL },
};
