package errkind

import (
	"slices"
	"strconv"
	"strings"
)

// causes are the texts of errors of the kernel and of Go's libraries, which end many texts of
// this program. The kernel's are those of package syscall. They are translated as messages.
var causes = [...]string{
	Mark("operation not permitted"), Mark("no such file or directory"), Mark("no such process"), Mark("interrupted system call"),
	Mark("input/output error"), Mark("no such device or address"), Mark("argument list too long"), Mark("exec format error"),
	Mark("bad file descriptor"), Mark("no child processes"), Mark("resource temporarily unavailable"), Mark("cannot allocate memory"),
	Mark("permission denied"), Mark("device or resource busy"), Mark("file exists"), Mark("invalid cross-device link"),
	Mark("no such device"), Mark("not a directory"), Mark("is a directory"), Mark("invalid argument"),
	Mark("too many open files in system"), Mark("too many open files"), Mark("inappropriate ioctl for device"), Mark("text file busy"),
	Mark("file too large"), Mark("no space left on device"), Mark("read-only file system"), Mark("too many links"), Mark("broken pipe"),
	Mark("file name too long"), Mark("no locks available"), Mark("function not implemented"), Mark("directory not empty"),
	Mark("too many levels of symbolic links"), Mark("no data available"), Mark("protocol error"), Mark("bad message"),
	Mark("value too large for defined data type"), Mark("too many users"), Mark("message too long"), Mark("protocol not supported"),
	Mark("operation not supported"), Mark("address already in use"), Mark("cannot assign requested address"), Mark("network is down"),
	Mark("network is unreachable"), Mark("software caused connection abort"), Mark("connection reset by peer"),
	Mark("no buffer space available"), Mark("transport endpoint is not connected"), Mark("connection timed out"),
	Mark("connection refused"), Mark("host is down"), Mark("no route to host"), Mark("stale file handle"),
	Mark("structure needs cleaning"), Mark("remote I/O error"), Mark("disk quota exceeded"), Mark("no medium found"),
	Mark("required key not available"),

	Mark("i/o timeout"), Mark("no such host"), Mark("server misbehaving"), Mark("unexpected EOF"), Mark("EOF"),
	Mark("context deadline exceeded"), Mark("context canceled"), Mark("file already exists"), Mark("file does not exist"),
	Mark("file already closed"), Mark("use of closed network connection"), Mark("TLS handshake timeout"),
	Mark("certificate signed by unknown authority"), Mark("executable file not found in $PATH"),
}

const exitStatus = "exit status "

// causeOf returns the sentence of a text that is an error of the kernel or of a library.
func causeOf(text string) (Sentence, bool) {
	if slices.Contains(causes[:], text) {
		return Sentence{Message: text}, true
	}
	if n, found := strings.CutPrefix(text, exitStatus); found {
		if _, err := strconv.ParseUint(n, 10, 8); err == nil {
			return Sentence{Mark("exit status %s"), []string{n}}, true
		}
	}
	return Sentence{}, false
}

// systemCalls are the operations that package os puts before the path of a file.
var systemCalls = [...]string{
	"chdir", "chmod", "chown", "chtimes", "close", "copy_file_range", "fchdir", "fdopendir", "fork/exec", "fstatat", "fsync", "ftruncate", "getdents",
	"lchown", "lstat", "mkdir", "mkdirat", "open", "openat", "openfdat", "read", "readdirent", "readlink", "readlinkat", "remove",
	"seek", "stat", "statat", "statfs", "sync", "truncate", "unlink", "unlinkat", "utimensat", "write",
}

// withoutCall removes the operation from what is before the cause: "open /x: " becomes "/x: ",
// as other programs write it.
func withoutCall(before string) string {
	place := 0
	if colon := strings.LastIndex(strings.TrimSuffix(before, ": "), ": "); colon >= 0 {
		place = colon + len(": ")
	}
	call, path, found := strings.Cut(before[place:], " ")
	if !found || !strings.ContainsAny(path, "/.") || strings.Contains(path, "->") || !slices.Contains(systemCalls[:], call) {
		return before
	}
	return before[:place] + path
}
