/*
 * idler.c - the smallest vassal: no C library, says 1, 5 and 17, waits for the end of its link or a signal.
 * For tests with so many vassals that each page of memory counts. Linux on x86_64 and aarch64.
 */
#if defined(__x86_64__)
static long sc(long n, long a, long b, long c) {
	long r;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return r;
}
enum { READ = 0, WRITE = 1, EXIT = 60 };
#else
static long sc(long n, long a, long b, long c) {
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
	return x0;
}
enum { READ = 63, WRITE = 64, EXIT = 93 };
#endif

static int link_number(char **env) {
	static const char key[] = "UWSGI_EMPEROR_FD=";
	for (; *env; env++) {
		int i = 0, n = 0;
		while (key[i] && (*env)[i] == key[i]) i++;
		if (key[i]) continue;
		for (; (*env)[i] >= '0' && (*env)[i] <= '9'; i++) n = n * 10 + (*env)[i] - '0';
		return n;
	}
	return 3;
}

__attribute__((used)) void begin(long *stack) {
	char byte, words[] = { 1, 5, 17 };
	int link = link_number((char **) (stack + 1) + *stack + 1);
	sc(WRITE, link, (long) words, 3);
	/* byte 1 is a reload; anything else, and the end, ends it */
	while (sc(READ, link, (long) &byte, 1) == 1 && byte == 1) continue;
	for (;;) sc(EXIT, 0, 0, 0);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\tmov %rsp,%rdi\n\tand $-16,%rsp\n\tcall begin\n");
#else
__asm__(".globl _start\n_start:\n\tmov x0,sp\n\tbl begin\n");
#endif
