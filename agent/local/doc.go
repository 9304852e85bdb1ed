// Package local makes packages from files of users, and publishes them in the repository of
// this machine.
//
// Words: an upload is a file that a client sends through a pipe, and its copy. A source is
// the package source that the converter has made from uploads. The repository is the
// directory local below the root; its keys are in local.keys, for root alone.
//
// The agent opens no file of a client and reads no descriptor of one. It reads a pipe that it
// made, so that a user's file system cannot delay it, and the content does not change during
// the read. The copy, and the result of the conversion, is in a scratch directory for root
// alone. Tidy deletes the scratch directories of an interrupted run.
//
// A replica is another repository of this machine, apt/NAME below the root. It has the offers
// of a source of apt (package apt) for some packages. It is followed like any other
// repository. Before each read, the newest versions are fetched and converted into it.
//
// A watched directory is followed in the same way: its repository is watched/NAME below the
// root, and before each read the files that are new are converted into it.
//
// A Store may be used from any goroutine; an Upload and a Source belong to one at a time. All
// functions block on the disk, Receive on the client, Convert on the converter.
package local
