/*
 * Makes processes that do nothing until it ends.
 *
 * usage: crowd NUMBER
 *
 * It writes R to its standard output when they are there, and ends with its
 * standard input; the children end with it.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char c;
	int i, n = argc > 1 ? atoi(argv[1]) : 0;

	for (i = 0; i < n; i++) {
		switch (fork()) {
		case -1:
			return 1;
		case 0:
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			close(0);
			close(1);
			for (;;)
				pause();
		}
	}
	if (write(1, "R", 1) != 1)
		return 1;
	while (read(0, &c, 1) > 0)
		;
	return 0;
}
