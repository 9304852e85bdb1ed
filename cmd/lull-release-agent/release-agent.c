//go:build ignore

/*
 * lull-release-agent: what the kernel runs when a cgroup of the v1 freezer
 * hierarchy has lost its last process or its last child (cgroups(7), "Cgroups
 * v1 release notification").
 *
 *	argv[0]  the path that was registered: <run-dir>/release-agent
 *	argv[1]  the cgroup, below the hierarchy's root: /lull.<instance>/<run>
 *
 * It takes the lock of the instance without waiting and removes the cgroup.
 * When it has the lock and the instance's own group could go too, nothing runs
 * and nothing can have begun to: then it removes the marker <instance>.running,
 * and inotify tells the agent. In every case it opens and closes the lock file
 * for reading at last, after it has let go of its own lock, and inotify tells the
 * agent to look for itself: the agent may have come for the lock when we had it,
 * and waits for a sign that it is free. So no end of a run is ever lost, with any
 * holder of the lock.
 *
 * Services are in /lull-svc.<instance>/<run>. Their groups are removed the same
 * way, and the marker, which is about the application, left alone.
 */

#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/fcntl.h>

#define NAME_LIMIT 200	/* of an instance */
#define PATH_LIMIT 4096 /* PATH_MAX */

struct buffer {
	char text[PATH_LIMIT];
	unsigned long length; /* without the final zero; PATH_LIMIT: too long */
};

#if defined(__x86_64__)

__asm__(".globl _start\n"
	"_start:\n"
	"	xor %ebp, %ebp\n"
	"	mov %rsp, %rdi\n"
	"	and $-16, %rsp\n"
	"	call start\n");

static long call(long n, long a, long b, long c, long d)
{
	long r;
	register long r10 __asm__("r10") = d;

	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
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

static long call(long n, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;

	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
}

#else
#error "only x86_64 and aarch64 are known here"
#endif

static long open_file(const char *path, long flags)
{
	return call(__NR_openat, AT_FDCWD, (long)path, flags | O_CLOEXEC | O_NOFOLLOW, 0);
}

static void close_file(long fd)
{
	call(__NR_close, fd, 0, 0, 0); /* of what was not opened: EBADF */
}

static int lock_file(long fd)
{
	struct flock all = { .l_type = F_WRLCK }; /* from 0, SEEK_SET, to the end */

	return fd >= 0 && call(__NR_fcntl, fd, F_OFD_SETLK, (long)&all, 0) == 0;
}

/* A group that is gone already was removed by the agent or another of us. */
static int remove_group(const char *path)
{
	long r = call(__NR_unlinkat, AT_FDCWD, (long)path, AT_REMOVEDIR, 0);

	return r == 0 || r == -ENOENT;
}

static void add(struct buffer *b, const char *s, unsigned long n)
{
	unsigned long i;

	for (i = 0; i < n && s[i] && b->length < PATH_LIMIT; i++)
		b->text[b->length++] = s[i];
	if (b->length < PATH_LIMIT)
		b->text[b->length] = 0;
}

/* join makes a path of n bytes of a, c, m bytes of d, and e; "" if it is too long. */
static const char *join(struct buffer *b, const char *a, unsigned long n, const char *c, const char *d, unsigned long m,
			const char *e)
{
	b->length = 0;
	add(b, a, n);
	add(b, c, PATH_LIMIT);
	add(b, d, m);
	add(b, e, PATH_LIMIT);
	return b->length < PATH_LIMIT ? b->text : "";
}

static int begins(const char *s, const char *with)
{
	while (*with)
		if (*s++ != *with++)
			return 0;
	return 1;
}

/* clean refuses empty components, "." and "..". */
static int clean(const char *path)
{
	while (*path == '/') {
		path++;
		if (*path == 0 || *path == '/' || begins(path, "./") || begins(path, "../"))
			return 0;
		if (path[0] == '.' && (path[1] == 0 || (path[1] == '.' && path[2] == 0)))
			return 0;
		while (*path && *path != '/')
			path++;
	}
	return *path == 0;
}

static struct buffer lock_path, marker_path, cgroup_path, group_path;

static int run(const char *self, const char *path)
{
	unsigned long i, dir = 0, skip, length;
	const char *lock, *marker, *instance;
	int service, locked, vacant;
	long fd;

	for (i = 0; self[i]; i++)
		if (self[i] == '/')
			dir = i; /* of the last slash: the run directory's length */
	if (self[0] != '/' || dir == 0)
		return 64;
	service = begins(path, "/lull-svc.");
	if (!service && !begins(path, "/lull."))
		return 0; /* somebody else's */
	skip = service ? sizeof("/lull-svc.") - 1 : sizeof("/lull.") - 1;
	instance = path + skip;
	for (length = 0; instance[length] && instance[length] != '/'; length++)
		;
	if (length == 0 || length > NAME_LIMIT || !clean(path))
		return 64;

	lock = join(&lock_path, self, dir, "/runctl/lull.", instance, length, ".lock");
	marker = join(&marker_path, self, dir, "/runctl/lull.", instance, length, ".running");
	fd = open_file(lock, O_RDWR);
	locked = lock_file(fd);
	vacant = remove_group(join(&cgroup_path, self, dir, "/freezer", path, PATH_LIMIT, "")) &&
		 remove_group(join(&group_path, self, dir, "/freezer", path, skip + length, ""));
	if (!service && locked && vacant)
		call(__NR_unlinkat, AT_FDCWD, (long)marker, 0, 0);
	close_file(fd);
	/* A sign for the agent; it must find the lock free. */
	close_file(open_file(lock, O_RDONLY));
	return 0;
}

__attribute__((noreturn, used)) void start(long *stack)
{
	long argc = stack[0];
	char **argv = (char **)(stack + 1);
	long status = argc == 2 ? run(argv[0], argv[1]) : 64;

	for (;;)
		call(__NR_exit_group, status, 0, 0, 0);
}
