/*
 * hostile.c - a vassal that means harm, and the one that it means.
 *
 *   hostile attack WORD=VALUE...   makes every attempt, prints one line for each, then stays
 *       victim=PID emperor=PID     their processes, as their own pid namespace numbers them
 *       place=DIR own=DIR          where everybody's files are; a directory that the attacker may write to
 *       vassals=DIR                where the files of the vassals are
 *       notify=PATH                where the victim tells the emperor of itself (NOTIFY_SOCKET)
 *       port=N uid=N               what the victim listens on, on the loopback; whose the victim is
 *       only=NAME                  makes this attempt only
 *       tag=WORD                   begins each line; `hostile` otherwise
 *                                  At the end it leaves a daemon, `hostile daemon`.
 *   hostile victim WORD=VALUE...   makes what is attacked, says so, then stays
 *   hostile rights                 prints its user and its capabilities: what a set-id program is good for
 *   hostile grant FILE             gives it the file capability CAP_SYS_ADMIN
 *   hostile swap A B               exchanges the two names for ever, after saying `hostile swaps`
 *   hostile owner PATH             prints whose it is
 *   hostile loopback               a second network, 192.0.2.1/24, on the loopback
 *   hostile stage ...              see stage.c
 *
 * A line is `TAG ATTEMPT RESULT`: `succeeded`, the name of an errno or of a signal, `nothing`, `throttled`, `no-gain`,
 * `timeout`. Everything that could hurt the machine asks for permission and for nothing else: signal 0, files that are
 * opened and not written to, arguments that are wrong in a way that is looked at after the permission.
 */
#include "hostile.h"
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/prctl.h>

int stage(int count, char **words);
int grant(const char *program);
void loopback(void);
int play_victim(void);

int victim, emperor, port, other_uid;
const char *place = "/nonexistent", *own = "/tmp", *vassals = "/nonexistent", *notify = "/nonexistent";
char secret_in_memory[64];
static const char *only, *tag = "hostile";

char *path(const char *format, ...) {
	static char texts[8][4200];
	static int next;
	va_list list;
	char *text = texts[next++ % 8];
	va_start(list, format);
	vsnprintf(text, sizeof texts[0], format, list);
	va_end(list);
	return text;
}

int opens(const char *name, int flags) {
	int fd = open(name, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), found = errno;
	if (fd < 0) return found;
	close(fd);
	return 0;
}

int tells_fd(int fd) {
	char text[sizeof SECRET] = "";
	ssize_t got = pread(fd, text, sizeof SECRET - 1, 0);
	if (got < 0) return errno;
	return got == sizeof SECRET - 1 && !memcmp(text, SECRET, sizeof SECRET - 1) ? 0 : NOTHING;
}

int tells(const char *name) {
	int fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) return errno;
	int answer = tells_fd(fd);
	close(fd);
	return answer;
}

unsigned long long effective(void) {
	char text[4096];
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
	text[got < 0 ? 0 : got] = 0;
	if (fd >= 0) close(fd);
	char *line = strstr(text, "CapEff:");
	return line ? strtoull(line + 7, NULL, 16) : 0;
}

int gains(const char *program) {
	int pipes[2];
	if (pipe(pipes)) return errno;
	pid_t child = fork();
	if (child < 0) return errno;
	if (!child) {
		dup2(pipes[1], 1);
		close(pipes[0]);
		execl(program, program, "rights", NULL);
		printf("errno %d", errno);
		fflush(stdout);
		_exit(1);
	}
	close(pipes[1]);
	char text[128] = "";
	size_t size = 0;
	for (ssize_t got; size < sizeof text - 1 && (got = read(pipes[0], text + size, sizeof text - 1 - size)) > 0;)
		size += (size_t) got;
	waitpid(child, NULL, 0);
	int uid, failed;
	unsigned long long rights;
	if (sscanf(text, "errno %d", &failed) == 1) return failed;
	if (sscanf(text, "rights %d %llx", &uid, &rights) != 2) return NOTHING;
	return (!uid && getuid()) || (rights & ~effective()) ? 0 : NO_GAIN;
}

int emperors_link(void) {
	const char *number = getenv("UWSGI_EMPEROR_FD");
	return number ? atoi(number) : -1;
}

static const char *signal_name(int number) {
	const char *name = sigabbrev_np(number);
	return number == SIGALRM || !name ? "timeout" : path("SIG%s", name);
}

/* Each in a process of its own: whatever it does to itself is over with it. */
static void make(const struct attempt *attempt, int *answer) {
	*answer = NOTHING;
	fflush(stdout);
	pid_t child = fork();
	if (child < 0) {
		printf("%s %s cannot-fork\n", tag, attempt->name);
		return;
	}
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		alarm(30);
		int got = attempt->run();
		*answer = got;
		_exit(0);
	}
	int status;
	while (waitpid(child, &status, 0) < 0 && errno == EINTR);
	const char *word = WIFSIGNALED(status) ? signal_name(WTERMSIG(status))
		: *answer == 0 ? "succeeded"
		: *answer == NOTHING ? "nothing"
		: *answer == THROTTLED ? "throttled"
		: *answer == NO_GAIN ? "no-gain"
		: strerrorname_np(*answer);
	printf("%s %s %s\n", tag, attempt->name, word ? word : path("errno-%d", *answer));
	fflush(stdout);
}

/* Forked twice, in a session of its own, deaf to whoever asks it to end; known by its first word. */
static void leave_daemon(char *word) {
	fflush(stdout);
	pid_t child = fork();
	if (!child) {
		setsid();
		memcpy(word, "daemon", 6);
		for (int number = 1; number < 32; number++) signal(number, SIG_IGN);
		if (fork()) _exit(0);
		for (int fd = 0; fd < 1024; fd++) close(fd);
		for (;;) pause();
	}
	if (child > 0) waitpid(child, NULL, 0);
}

static int attack(char *word) {
	const struct attempt *all[] = { processes, files, kernel, escapes, network, limits };
	int *answer = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (answer == MAP_FAILED) return 1;
	for (size_t group = 0; group < sizeof all / sizeof *all; group++)
		for (const struct attempt *attempt = all[group]; attempt->name; attempt++)
			if (!only || !strcmp(only, attempt->name)) make(attempt, answer);
	leave_daemon(word);
	printf("%s done %d\n", tag, getuid());
	fflush(stdout);
	char order;
	if (read(emperors_link(), &order, 1) >= 0) _exit(0);
	for (;;) pause();
}

static int swap(const char *one, const char *other) {
	printf("hostile swaps\n");
	fflush(stdout);
	while (!renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE)) usleep(200);
	perror("hostile swap");
	return 1;
}

int main(int count, char **words) {
	if (count < 2) return 2;
	if (!strcmp(words[1], "stage")) return stage(count - 2, words + 2);
	if (!strcmp(words[1], "swap") && count > 3) return swap(words[2], words[3]);
	if (!strcmp(words[1], "owner") && count > 2) {
		struct stat there;
		printf("hostile owner %d\n", stat(words[2], &there) ? -1 : (int) there.st_uid);
		return 0;
	}
	if (!strcmp(words[1], "grant")) return count < 3 ? 2 : grant(words[2]);
	if (!strcmp(words[1], "loopback")) return loopback(), 0;
	if (!strcmp(words[1], "rights")) {
		printf("rights %d %llx", geteuid(), effective());
		return 0;
	}
	for (int i = 2; i < count; i++) {
		char *value = strchr(words[i], '=');
		if (!value) return 2;
		size_t length = (size_t) (value++ - words[i]);
		const struct { const char *name; int *number; const char **text; } known[] = {
			{ "victim", &victim, NULL }, { "emperor", &emperor, NULL }, { "port", &port, NULL },
			{ "uid", &other_uid, NULL }, { "place", NULL, &place }, { "own", NULL, &own },
			{ "vassals", NULL, &vassals }, { "notify", NULL, &notify }, { "only", NULL, &only }, { "tag", NULL, &tag },
		};
		for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
			if (strlen(known[k].name) != length || strncmp(known[k].name, words[i], length)) continue;
			if (known[k].number) *known[k].number = atoi(value);
			else *known[k].text = value;
		}
	}
	/* As a pid namespace's first process it would not be ended by a signal that it does not handle. */
	struct sigaction leave = { .sa_handler = _exit };
	sigaction(SIGTERM, &leave, NULL);
	sigaction(SIGINT, &leave, NULL);
	if (!strcmp(words[1], "victim")) return play_victim();
	return strcmp(words[1], "attack") ? 2 : attack(words[1]);
}
