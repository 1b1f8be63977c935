/* files.c - others' files, sockets, queues and keys; the system's files; set-id programs and devices. */
#include "hostile.h"
#include <grp.h>
#include <mqueue.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

static int secret(void) { return tells(path("%s/victim/secret", place)); }
static int public(void) { return tells(path("%s/victim/public", place)); }
static int secret_write(void) { return opens(path("%s/victim/secret", place), O_WRONLY); }
static int home(void) { return tells("/home/victim/notes"); }
static int home_secret(void) { return tells("/home/victim/secret"); }
static int root_home(void) { return tells("/root/notes"); }
static int shared_tmp(void) { return tells("/tmp/victims-note"); }
static int shared_memory_file(void) { return tells("/dev/shm/victims-note"); }
static int vassal_file(void) { return opens(path("%s/victim.ini", vassals), O_RDONLY); }
static int vassal_file_write(void) { return opens(path("%s/victim.ini", vassals), O_WRONLY); }
static int log_read(void) { return opens("/proc/self/fd/2", O_RDONLY); }
static int shadow(void) { return opens("/etc/shadow", O_RDONLY); }
static int etc_write(void) { return opens("/etc/passwd", O_WRONLY); }
static int usr_write(void) { return opens("/usr/lib/os-release", O_WRONLY); }
static int var_write(void) { return opens(path("%s/system", place), O_WRONLY); }

/* A vassal of the attacker's making; the name is none that an emperor looks for. */
static int new_vassal(void) {
	const char *name = path("%s/hostile.new", vassals);
	int answer = opens(name, O_WRONLY | O_CREAT | O_EXCL);
	if (!answer) unlink(name);
	return answer;
}

static int link_to_secret(void) {
	const char *name = path("%s/hard-link", own);
	unlink(name);
	if (link(path("%s/victim/public", place), name)) return errno;
	unlink(name);
	return 0;
}

static int reach(const struct sockaddr_un *a, socklen_t size) {
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return fd < 0 ? errno : ANSWER(connect(fd, (const struct sockaddr *) a, size));
}

static int by_path(const char *name) {
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	strncpy(a.sun_path, name, sizeof a.sun_path - 1);
	return reach(&a, sizeof a);
}

static int private_socket(void) { return by_path(path("%s/victim/private.sock", place)); }
static int open_socket(void) { return by_path(path("%s/victim/open.sock", place)); }
static int stats_socket(void) { return by_path(path("%s/stats", place)); }
/* What the victim says of itself to the emperor, said by somebody else. */
static int notify_socket(void) {
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	strncpy(a.sun_path, notify, sizeof a.sun_path - 1);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return fd < 0 ? errno : ANSWER(sendto(fd, "STATUS=forged", 13, 0, (struct sockaddr *) &a, sizeof a));
}
static int abstract_socket(void) {
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	strcpy(a.sun_path + 1, ABSTRACT);
	return reach(&a, (socklen_t) (offsetof(struct sockaddr_un, sun_path) + sizeof ABSTRACT));
}

static int segment(void) {
	int id = shmget(IPC_KEY, 0, 0);
	if (id < 0) return errno;
	char *memory = shmat(id, NULL, SHM_RDONLY);
	if (memory == (void *) -1) return errno;
	return strcmp(memory, SECRET) ? NOTHING : 0;
}

static int queue(void) { return ANSWER(mq_open("/victims-queue", O_RDWR)); }

/* KEYCTL_SEARCH in the session's keyring (-3), then KEYCTL_READ. */
static int key(void) {
	char text[sizeof SECRET] = "";
	long id = syscall(SYS_keyctl, 10, -3, "user", KEY_NAME, 0);
	if (id < 0) return errno;
	return ANSWER(syscall(SYS_keyctl, 11, id, text, sizeof text - 1));
}

static int become_root(void) { return getuid() ? ANSWER(setuid(0)) : NO_GAIN; }
static int become_other(void) {
	return setresgid((gid_t) other_uid, (gid_t) other_uid, (gid_t) other_uid) ? errno
		: ANSWER(setresuid((uid_t) other_uid, (uid_t) other_uid, (uid_t) other_uid));
}
static int drop_groups(void) { gid_t one = 0; return ANSWER(setgroups(1, &one)); }
static int suid_program(void) { return gains(path("%s/suid", place)); }
static int file_capabilities(void) { return gains(path("%s/capable", place)); }

static int raise_capabilities(void) {
	struct { unsigned version; int pid; } head = { 0x20080522, 0 };
	struct { unsigned effective, permitted, inheritable; } all[2] = { { 0, 0, 0 }, { 0, 0, 0 } };
	all[0].effective = all[0].permitted = 1u << 21; /* CAP_SYS_ADMIN */
	return ANSWER(syscall(SYS_capset, &head, all));
}

/* A program of its own with the set-id bit, for whoever comes later. */
static int make_suid(void) {
	const char *name = path("%s/set-id", own);
	int fd = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
	if (fd < 0) return errno;
	int answer = ANSWER(fchmod(fd, 04755));
	close(fd);
	unlink(name);
	return answer;
}

static int node(mode_t kind, dev_t device) {
	const char *name = path("%s/node", own);
	unlink(name);
	if (mknod(name, kind | 0600, device)) return errno;
	int answer = opens(name, O_RDONLY);
	unlink(name);
	return answer == ENXIO ? 0 : answer; /* it may be opened, and nothing is behind it */
}

static int character_device(void) { return node(S_IFCHR, makedev(1, 11)); } /* the kernel's messages */
static int block_device(void) { return node(S_IFBLK, makedev(7, 0)); }      /* a loop device */
static int memory_device(void) { return opens("/dev/mem", O_RDONLY); }
static int messages(void) { return opens("/dev/kmsg", O_RDONLY); }

/* The first whole disk that the kernel has; opened for reading, and not read. */
static int disk(void) {
	char line[256], name[128];
	FILE *all = fopen("/proc/partitions", "re");
	while (all && fgets(line, sizeof line, all))
		if (sscanf(line, "%*d %*d %*d %127s", name) == 1) return opens(path("/dev/%s", name), O_RDONLY);
	return ENOENT;
}

/* A NUL, typed for whoever reads from the terminal. */
static int typing(void) {
	int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? errno : ANSWER(ioctl(fd, TIOCSTI, ""));
}
static int terminal(void) { return opens("/dev/tty", O_RDWR); }

const struct attempt files[] = {
	{ "file-secret", secret },
	{ "file-secret-write", secret_write },
	{ "file-public", public },
	{ "file-link", link_to_secret },
	{ "file-home", home },
	{ "file-home-secret", home_secret },
	{ "file-root-home", root_home },
	{ "file-tmp", shared_tmp },
	{ "file-shared-memory", shared_memory_file },
	{ "file-vassal", vassal_file },
	{ "file-vassal-write", vassal_file_write },
	{ "file-vassal-new", new_vassal },
	{ "file-log", log_read },
	{ "file-shadow", shadow },
	{ "file-etc-write", etc_write },
	{ "file-usr-write", usr_write },
	{ "file-system-write", var_write },
	{ "socket-private", private_socket },
	{ "socket-open", open_socket },
	{ "socket-abstract", abstract_socket },
	{ "socket-stats", stats_socket },
	{ "socket-notify", notify_socket },
	{ "ipc-segment", segment },
	{ "ipc-queue", queue },
	{ "key-of-session", key },
	{ "become-root", become_root },
	{ "become-other", become_other },
	{ "become-group", drop_groups },
	{ "become-by-suid", suid_program },
	{ "become-by-file-capabilities", file_capabilities },
	{ "become-by-capset", raise_capabilities },
	{ "make-suid", make_suid },
	{ "device-character", character_device },
	{ "device-block", block_device },
	{ "device-disk", disk },
	{ "device-memory", memory_device },
	{ "device-messages", messages },
	{ "device-terminal", terminal },
	{ "device-terminal-typing", typing },
	{ NULL, NULL },
};
