/* hostile.h - what the parts of the hostile vassal share; see main.c. */
#ifndef HOSTILE_H
#define HOSTILE_H
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

/* Answers beside 0 (it succeeded) and an errno. */
#define NOTHING (-1)   /* nothing to be seen of what was looked for */
#define THROTTLED (-2) /* it got less than it took */
#define NO_GAIN (-3)   /* the program ran, with no more rights than before */

struct attempt {
	const char *name;
	int (*run)(void);
};

extern const struct attempt processes[], files[], kernel[], escapes[], network[], limits[];

/* The words of the command line. */
extern int victim, emperor, port, other_uid;
extern const char *place, *own, *vassals, *notify;

/* What the victim keeps in its memory; at the same address in every process of this program. */
extern char secret_in_memory[64];

#define SECRET "what only the victim knows"
/* Readable for everybody, where it can be seen. */
#define HIDDEN "/home/victim/notes"
#define KEY_NAME "hostile-emperor"
#define ABSTRACT "hostile-victim"
#define IPC_KEY 0x68767631

/* A path: the parts joined, in a buffer that the next call but seven overwrites. */
char *path(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* 0 if the call succeeded, else why not. */
#define ANSWER(call) ((call) < 0 ? errno : 0)
/* 0 if the file can be opened so. Nothing is written. */
int opens(const char *name, int flags);
/* 0 if the secret can be read from there. */
int tells(const char *name);
int tells_fd(int fd);
/* 0 if the program of that name in the place runs and has rights that we have not. */
int gains(const char *program);
unsigned long long effective(void);
/* The number of its link to the emperor; -1 where it has none. */
int emperors_link(void);

#endif
