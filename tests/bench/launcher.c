/* launcher FILE PROGRAM: run PROGRAM and write the peak memory of its largest process, in KiB,
 * to FILE. At exec Linux hands a process its parent's peak, so the parent must be tiny. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>

int main(int argc, char **argv, char **environment)
{
	struct rusage usage;
	int status, file;
	pid_t child;

	if (argc < 3 || posix_spawn(&child, argv[2], NULL, NULL, argv + 2, environment))
		return 126;
	if (wait4(child, &status, 0, &usage) < 0)
		return 126;
	file = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (file < 0 || dprintf(file, "%ld\n", usage.ru_maxrss) < 0)
		return 126;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
