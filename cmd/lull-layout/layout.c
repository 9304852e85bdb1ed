//go:build ignore

/*
 * lull-layout: puts parts of a package at fixed paths, or the files of a runtime
 * at /, for one program and its children, and becomes that program. The launcher
 * executes it.
 *
 *	lull-layout INSTANCE OPERATION... -- FILE ARGUMENT...
 *
 * FILE is executed with the arguments, of which the first is its name. The
 * operations are carried out in a mount namespace of its own, in their order:
 *
 *	scratch DIR       mount a tmpfs at DIR and go there
 *	dir PATH          make an empty directory
 *	file PATH         make an empty file
 *	merge PATH DIR    show the entries of PATH also in DIR
 *	link TARGET PATH  make a symlink
 *	done DIR          unmount the tmpfs and go back
 *	bind FROM TO      show FROM at TO, with what is mounted below it
 *	protect DIR       make the mount at DIR read-only
 *	pivot DIR         make the tmpfs the root, read-only, with the former root at
 *	                  DIR, and go to the path of the directory before
 *
 * A process with CAP_SYS_ADMIN has a mount namespace alone. For another one it
 * is in a user namespace that has the same user and group and nothing else
 * (user_namespaces(7)); execve drops the capabilities there. A launcher written
 * in Go has threads, and the kernel gives a user namespace to a process without
 * threads only.
 *
 * On an error it prints a line for people and exits with status 69.
 */

#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/sched.h>

#define PATH_LIMIT 4096 /* PATH_MAX */
#define UNAVAILABLE 69	/* EX_UNAVAILABLE of sysexits.h */
#define DETACH 2	/* MNT_DETACH */

#if defined(__x86_64__)

__asm__(".globl _start\n"
	"_start:\n"
	"	xor %ebp, %ebp\n"
	"	mov %rsp, %rdi\n"
	"	and $-16, %rsp\n"
	"	call start\n");

static long call(long n, long a, long b, long c, long d, long e)
{
	long r;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;

	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return r;
}

#elif defined(__aarch64__)

__asm__(".globl _start\n"
	"_start:\n"
	"	mov x29, #0\n"
	"	mov x30, #0\n"
	"	mov x0, sp\n"
	"	and sp, x0, #-16\n"
	"	bl start\n");

static long call(long n, long a, long b, long c, long d, long e)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;

	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
}

#else
#error "only x86_64 and aarch64 are known here"
#endif

static const char *instance = "";
static long scratch = -1; /* descriptor of the newest tmpfs */

static unsigned long length(const char *s)
{
	unsigned long n = 0;

	while (s[n])
		n++;
	return n;
}

static int same(const char *a, const char *b)
{
	while (*a && *a == *b) {
		a++;
		b++;
	}
	return *a == *b;
}

/* add appends s to a text of at most PATH_LIMIT bytes; a longer one is cut off. */
static void add(char *text, const char *s)
{
	unsigned long n = length(text);

	while (*s && n < PATH_LIMIT - 1)
		text[n++] = *s++;
	text[n] = 0;
}

static void add_number(char *text, long n)
{
	char digits[24];
	int i = sizeof(digits) - 1;

	digits[i] = 0;
	do
		digits[--i] = '0' + n % 10;
	while ((n /= 10) > 0);
	add(text, digits + i);
}

static void print(const char *s)
{
	call(__NR_write, 2, (long)s, length(s), 0, 0);
}

/* read_number reads a setting of the kernel; -1 if it has none. */
static long read_number(const char *path)
{
	char text[24];
	long i, n, value = 0;
	long fd = call(__NR_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0, 0);

	if (fd < 0)
		return -1;
	n = call(__NR_read, fd, (long)text, sizeof(text), 0, 0);
	call(__NR_close, fd, 0, 0, 0, 0);
	for (i = 0; i < n && text[i] >= '0' && text[i] <= '9'; i++)
		value = value * 10 + text[i] - '0';
	return i > 0 ? value : -1;
}

static const char *meaning(long error)
{
	switch (error) {
	case -EPERM:
		return "operation not permitted";
	case -EACCES:
		return "permission denied";
	case -ENOENT:
		return "no such file or directory";
	case -ENOTDIR:
		return "not a directory";
	case -ENOSPC:
		return "no space, or a limit of the kernel is reached";
	case -EINVAL:
		return "invalid argument";
	case -ENODEV:
		return "the kernel has no such file system";
	case -ENOMEM:
		return "out of memory";
	case -E2BIG:
		return "argument list too long";
	case -ENAMETOOLONG:
		return "file name too long";
	case -ELOOP:
		return "too many levels of symbolic links";
	case -EROFS:
		return "read-only file system";
	case -EEXIST:
		return "file exists";
	case -ENOEXEC:
		return "exec format error";
	}
	return 0;
}

/* give_up does not return. */
static void give_up(const char *what, const char *path, long error, const char *hint)
{
	static char text[PATH_LIMIT];

	add(text, "lull: cannot run ");
	add(text, instance);
	add(text, ": cannot ");
	add(text, what);
	add(text, path);
	add(text, ": ");
	if (meaning(error)) {
		add(text, meaning(error));
	} else {
		add(text, "error ");
		add_number(text, -error);
	}
	add(text, "\n");
	if (hint) {
		add(text, "hint: ");
		add(text, hint);
		add(text, "\n");
	}
	print(text);
	call(__NR_exit_group, UNAVAILABLE, 0, 0, 0, 0);
}

/* forbidden returns the setting that forbids user namespaces, as advice; 0 if none does. */
static const char *forbidden(void)
{
	if (read_number("/proc/sys/kernel/unprivileged_userns_clone") == 0)
		return "user namespaces are forbidden for users: sysctl kernel.unprivileged_userns_clone=1 allows them";
	if (read_number("/proc/sys/user/max_user_namespaces") == 0)
		return "user namespaces are forbidden: sysctl user.max_user_namespaces=10000 allows them";
	if (read_number("/proc/sys/user/max_mnt_namespaces") == 0)
		return "mount namespaces are forbidden: sysctl user.max_mnt_namespaces=10000 allows them";
	if (read_number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") > 0)
		return "AppArmor restricts user namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns=0 allows them";
	return 0;
}

static void must(long result, const char *what, const char *path)
{
	if (result < 0)
		give_up(what, path, result, result == -EPERM || result == -EACCES ? forbidden() : 0);
}

static void write_file(const char *path, const char *text)
{
	long n = length(text), fd = call(__NR_openat, AT_FDCWD, (long)path, O_WRONLY | O_CLOEXEC, 0, 0);

	must(fd, "write ", path);
	must(call(__NR_write, fd, (long)text, n, 0, 0), "write ", path);
	call(__NR_close, fd, 0, 0, 0, 0);
}

static void map_id(const char *path, long id)
{
	char text[PATH_LIMIT] = "";

	add_number(text, id);
	add(text, " ");
	add_number(text, id);
	add(text, " 1");
	write_file(path, text);
}

static void enter_namespace(void)
{
	long uid = call(__NR_geteuid, 0, 0, 0, 0, 0), gid = call(__NR_getegid, 0, 0, 0, 0, 0);
	long r = call(__NR_unshare, CLONE_NEWNS, 0, 0, 0, 0);

	if (r == -EPERM) {
		r = call(__NR_unshare, CLONE_NEWUSER | CLONE_NEWNS, 0, 0, 0, 0);
		if (r < 0)
			give_up("make a user namespace for its mounts", "", r, forbidden());
		write_file("/proc/self/setgroups", "deny");
		map_id("/proc/self/uid_map", uid);
		map_id("/proc/self/gid_map", gid);
	}
	must(r, "make a mount namespace", "");
	/* What the host mounts later appears here, and nothing from here there. */
	must(call(__NR_mount, 0, (long)"/", 0, MS_REC | MS_SLAVE, 0), "separate the mounts of ", "/");
}

static void merge(const char *from, const char *dir)
{
	char options[PATH_LIMIT] = "lowerdir=";

	add(options, from);
	add(options, ":");
	add(options, dir);
	must(call(__NR_mount, (long)"lull", (long)dir, (long)"overlay", MS_RDONLY | MS_NOSUID | MS_NODEV, (long)options),
	     "mount an overlay at ", dir);
}

static void make_file(const char *path)
{
	long fd = call(__NR_openat, AT_FDCWD, (long)path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444, 0);

	must(fd, "make ", path);
	call(__NR_close, fd, 0, 0, 0, 0);
}

/* protect makes a mount of a scratch read-only. */
static void protect(const char *dir)
{
	must(call(__NR_mount, 0, (long)dir, 0, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, 0), "protect ", dir);
}

/* pivot goes to the directory of home by its path, or else stays in it, below dir. */
static void pivot(const char *dir, long home)
{
	static char path[PATH_LIMIT];
	long r;

	must(call(__NR_fchdir, home, 0, 0, 0, 0), "go back from ", dir);
	r = call(__NR_getcwd, (long)path, sizeof(path), 0, 0, 0);
	must(call(__NR_fchdir, scratch, 0, 0, 0, 0), "go to ", dir);
	must(call(__NR_pivot_root, (long)".", (long)dir, 0, 0, 0), "change the root, with the former one at ", dir);
	protect("/");
	if (r < 0 || path[0] != '/' || call(__NR_chdir, (long)path, 0, 0, 0, 0) < 0)
		must(call(__NR_fchdir, home, 0, 0, 0, 0), "go back from ", dir);
}

/* carry_out returns the operation after that at op. */
static char **carry_out(char **op, long home)
{
	const char *what = op[0], *first = op[1];

	if (same(what, "scratch")) {
		must(call(__NR_mount, (long)"lull", (long)first, (long)"tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
			  (long)"mode=0755,size=1m,nr_inodes=4096"),
		     "mount a tmpfs at ", first);
		scratch = call(__NR_openat, AT_FDCWD, (long)first, O_PATH | O_DIRECTORY | O_CLOEXEC, 0, 0);
		must(scratch, "open ", first);
		must(call(__NR_fchdir, scratch, 0, 0, 0, 0), "go to ", first);
	} else if (same(what, "dir")) {
		must(call(__NR_mkdirat, AT_FDCWD, (long)first, 0755, 0, 0), "make ", first);
	} else if (same(what, "file")) {
		make_file(first);
	} else if (same(what, "done")) {
		must(call(__NR_fchdir, home, 0, 0, 0, 0), "go back from ", first);
		must(call(__NR_umount2, (long)first, DETACH, 0, 0, 0), "unmount ", first);
	} else if (same(what, "protect")) {
		protect(first);
	} else if (same(what, "pivot")) {
		pivot(first, home);
	} else if (op[2] && same(what, "link")) {
		must(call(__NR_symlinkat, (long)first, AT_FDCWD, (long)op[2], 0, 0), "make ", op[2]);
		return op + 3;
	} else if (op[2] && same(what, "merge")) {
		merge(first, op[2]);
		return op + 3;
	} else if (op[2] && same(what, "bind")) {
		must(call(__NR_mount, (long)first, (long)op[2], 0, MS_BIND | MS_REC, 0), "mount a directory or file at ", op[2]);
		return op + 3;
	} else {
		give_up("understand the operation ", what, -EINVAL, 0);
	}
	return op + 2;
}

__attribute__((used, noreturn)) static void start(long *stack)
{
	long argc = stack[0], home, r;
	char **arg = (char **)(stack + 1), **env = arg + argc + 1;
	unsigned long mask;

	if (argc < 5) {
		print("usage: lull-layout INSTANCE OPERATION... -- FILE ARGUMENT...\n");
		call(__NR_exit_group, 64, 0, 0, 0, 0);
	}
	instance = arg[1];
	arg += 2;
	mask = call(__NR_umask, 0, 0, 0, 0, 0);
	enter_namespace();
	/* A descriptor from before leads to the mounts of the host, where getcwd(2) finds no path. */
	home = call(__NR_openat, AT_FDCWD, (long)".", O_PATH | O_DIRECTORY | O_CLOEXEC, 0, 0);
	while (arg[0] && arg[1] && !same(arg[0], "--"))
		arg = carry_out(arg, home);
	call(__NR_umask, mask, 0, 0, 0, 0);
	if (!arg[0] || !arg[1] || !arg[2])
		give_up("understand the operation ", arg[0] ? arg[0] : "", -EINVAL, 0);
	r = call(__NR_execve, (long)arg[1], (long)(arg + 2), (long)env, 0, 0);
	give_up("execute ", arg[1], r, 0);
	__builtin_unreachable();
}
