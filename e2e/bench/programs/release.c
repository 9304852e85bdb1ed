/*
 * release N AGENT EMPTY RUN-DIR INSTANCE: runs the release agent and an empty
 * program in turns, N times, as the kernel would: by exec, of nothing but a
 * path. For the agent there is each time a group in RUN-DIR/freezer to remove,
 * and a marker. Prints the nanoseconds of both, a line a turn.
 */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void check(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static long run(const char *program, char **argv)
{
	char *env[] = { "HOME=/", "PATH=/sbin:/bin:/usr/sbin:/usr/bin", NULL };
	struct timespec a, b;
	int status;
	pid_t pid;

	clock_gettime(CLOCK_MONOTONIC, &a);
	errno = posix_spawn(&pid, program, NULL, NULL, argv, env);
	check(errno == 0, program);
	check(waitpid(pid, &status, 0) == pid, "waitpid");
	clock_gettime(CLOCK_MONOTONIC, &b);
	check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "exit status");
	return (b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec;
}

int main(int argc, char **argv)
{
	char self[512], inst[512], group[512], marker[512], path[512];
	int i, fd;

	if (argc != 6)
		return 64;
	snprintf(self, sizeof(self), "%s/release-agent", argv[4]);
	snprintf(path, sizeof(path), "/lull.%s/0123456789abcdef.01234567", argv[5]);
	snprintf(inst, sizeof(inst), "%s/freezer/lull.%s", argv[4], argv[5]);
	snprintf(group, sizeof(group), "%s/freezer%s", argv[4], path);
	snprintf(marker, sizeof(marker), "%s/runctl/lull.%s.running", argv[4], argv[5]);
	for (i = atoi(argv[1]); i > 0; i--) {
		long ours, theirs;
		char *agent[] = { self, path, NULL }, *empty[] = { argv[3], path, NULL };

		check(mkdir(inst, 0755) == 0, inst);
		check(mkdir(group, 0755) == 0, group);
		fd = open(marker, O_WRONLY | O_CREAT | O_EXCL, 0644);
		check(fd >= 0 && close(fd) == 0, marker);
		ours = run(argv[2], agent);
		check(access(inst, F_OK) != 0 && access(marker, F_OK) != 0, "the agent left something");
		theirs = run(argv[3], empty);
		printf("%ld %ld\n", ours, theirs);
	}
	return 0;
}
