/*
 * An application that runs until its standard input is closed. It prints R when
 * it runs, and the time of CLOCK_MONOTONIC when it ends.
 */
#include <time.h>
#include <unistd.h>

int main(void)
{
	struct timespec now;
	char c;

	if (write(1, "R", 1) != 1)
		return 1;
	while (read(0, &c, 1) > 0)
		;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return write(1, &now, sizeof(now)) != sizeof(now);
}
