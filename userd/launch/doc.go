// Package launch starts applications and services: it is lull-run, the program
// behind `lull run` and behind every exported wrapper. It runs as the user, has
// no privileges, and turns into the application by exec.
//
// A launch goes like this:
//
//  1. read-lock the instance's lock file;
//  2. if .inhibited is there: unlock, print a message, wait until it is gone, go to 1;
//  3. resolve current to a revision and its package;
//  4. open the tether of that package, which stays open across exec and in all
//     children;
//  5. join a run, unless the desktop or systemd has given the process a unit of its
//     own, or is about to, or the process is in a unit outside of the user's manager,
//     which must end it when the unit stops;
//  6. unlock;
//  7. exec.
//
// Between 1 and 6 no refresh can enter its critical section, from 4 on none
// will find the instance vacant: the agent asks the kernel whether anything
// has the tether open. Where systemd makes the run, a launch with a tether
// connects to it before 1, asks after 4, unlocks, and makes the user's
// directories and the environment while systemd works. It waits for the run
// before exec, so that all children are in it. The run is for people and
// systemd, and for knowing early that it has ended. Where it cannot be had, or
// something moves the process out of it, the launch goes on. A service ignores
// the words refresh-starting (it is what is being started) and refresh-pending
// (which keeps out what a refresh would have to wait for; services are
// stopped, not waited for). A service of a user's session waits for the end of
// refresh-starting like an application: its user's data follows when the
// refresh is sure to stay.
//
// # The user's data
//
// A user who was not logged in during a refresh has no data of the new
// revision yet; the first launch copies it from the revision before. That
// happens after 4 for a launch with a tether, else after 5, and, for a launch
// that is tracked, after 6:
//
//   - No process of an older revision runs then, nor can one start: refreshes
//     that wait have passed a vacant moment, and current was read under the
//     lock. (A refresh side by side gives that up by policy.)
//   - From 4 or 5 on this process counts as running. A copy that takes minutes
//     makes the instance busy like an application would: the agent sees who it
//     is and waits for the end of it by event. The lock adds nothing to that, but
//     as long as it is held the agent can neither read the truth nor write a
//     marker, and only sees a launch that does not get on. It is held for
//     microseconds, not for the length of a copy.
//   - A launch that is not tracked (allow-untracked) has nothing but the lock.
//     It keeps it until exec.
//   - A crash in the middle leaves a partial directory under another name, which
//     the next launch redoes. The directory of a revision appears by one rename
//     and is complete. A lock on a file of the user's makes launches of one user
//     take turns, and the session helper, which copies ahead during a refresh and
//     finishes when it is done: see package userdata.
//
// Everything here runs in one goroutine of a short-lived process, but for the wait for
// systemd in step 5; Run blocks
// until exec. The imports are few and small, and a test keeps them so.
package launch
