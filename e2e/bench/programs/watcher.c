/*
 * watcher EVENTS FILE: waits by inotify until the cgroup with this cgroup.events
 * is not populated any more, and writes FILE. It prints R when it watches.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char events[4096], text[256];
	int in, fd;
	ssize_t n;

	if (argc != 3)
		return 64;
	in = inotify_init1(IN_CLOEXEC);
	if (in < 0 || inotify_add_watch(in, argv[1], IN_MODIFY) < 0 || write(1, "R", 1) != 1)
		return 1;
	for (;;) {
		if (read(in, events, sizeof(events)) < 0)
			return 1;
		fd = open(argv[1], O_RDONLY | O_CLOEXEC);
		n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
		if (n < 0)
			break; /* the group is gone, and its processes */
		close(fd);
		text[n] = 0;
		if (strstr(text, "populated 0"))
			break;
	}
	fd = open(argv[2], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	return fd < 0 || write(fd, "vacant\n", 7) != 7 || close(fd) != 0;
}
