// Package launch starts applications and services: it is lull-run, the program
// behind `lull run` and behind every exported wrapper. It runs as the user, has
// no privileges, and turns into the application by exec.
//
// A launch goes like this:
//
//  1. read-lock the instance's lock file;
//  2. if .inhibited is there: unlock, say so, wait until it is gone, go to 1;
//  3. resolve current to a revision and its package;
//  4. join a run, and see in /proc/self/cgroup that it worked;
//  5. unlock;
//  6. exec.
//
// Between 1 and 5 no refresh can enter its critical section, from 4 on none will
// find the instance vacant. A service ignores the words refresh-starting (it is
// what is being started) and refresh-pending (which keeps out what a refresh
// would have to wait for; services are stopped, not waited for). A service of a
// user's session waits for the end of refresh-starting like an application: its
// user's data follows when the refresh is sure to stay.
//
// # The user's data
//
// Whoever was not logged in during a refresh has no data of the new revision
// yet; the first launch copies it from the revision before. That happens after 4
// and, for a launch that is tracked, after 5:
//
//   - No process of an older revision runs then, nor can one start: refreshes
//     that wait have passed a vacant moment, and current was read under the
//     lock. (A refresh side by side gives that up by policy.)
//   - From 4 on this process is in a run of its own. A copy that takes minutes
//     makes the instance busy like an application would: the agent sees who it
//     is and waits for the end of it by event. The lock adds nothing to that, but
//     as long as it is held the agent can neither read the truth nor write a
//     marker, and only sees a launch that does not get on. It is held for
//     microseconds, not for the length of a copy.
//   - A launch that is not tracked (allow-untracked) has nothing but the lock.
//     It keeps it until exec.
//   - A crash in the middle leaves a partial folder under another name, which
//     the next launch does over. The folder of a revision appears by one rename
//     and is whole. A lock on a file of the user's makes launches of one user
//     take turns, and the session helper, which copies ahead during a refresh and
//     finishes when it is done: see package userdata.
//
// Everything here runs in one goroutine of a short-lived process; Run blocks
// until exec. The imports are few and small, and a test keeps them so.
package launch
