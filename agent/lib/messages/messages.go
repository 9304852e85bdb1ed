// Package messages is the table of what an administrator may search the journal
// for: each kind of message has an ID (MESSAGE_ID, systemd.journal-fields(7)), and
// an explanation in the catalog that `journalctl -x` shows. The file
// units/lull.catalog is made of it.
//
// A message is logged with its ID as the value of the attribute Key; the package
// logging turns that into the field. IDs are never reused for another message.
package messages

import "strings"

// Key is the name of the attribute with an ID.
const Key = "message-id"

// ID is a kind of message: 32 hexadecimal digits.
type ID string

// The kinds.
const (
	Serving              ID = "7c11c05dff7b9c8f9a4cbd787f6c813e"
	RefreshBegun         ID = "be559c854d6e2aad4ebbd0c6d548d393"
	RefreshResumed       ID = "c5f96e75c454fa23d827923c76e6b5d1"
	RefreshPostponed     ID = "7fa2dd80f7a7e06d7c1c400911d31690"
	RefreshHeld          ID = "a8ff606eb0ecc1be9f51f7f7c0fa6316"
	RefreshDone          ID = "39aae99aca8f3b30ad77224d67e803e1"
	RefreshUndone        ID = "03337b166af8e49560c2be070d44c9c8"
	RefreshStuck         ID = "f9d096d214b95d440a10129e5b41b91b"
	RefreshEnded         ID = "0f1573eea856fe71a08b99454647de89"
	StepFailed           ID = "e806bc52842f9fdd7224e5ebd25b6b5c"
	LeftToBoot           ID = "fb2d98787303e00f3b21ea4ff07fe1e3"
	DeadlineReached      ID = "3fbc729109a6cb24f350209e61745432"
	DeadlineKilled       ID = "65c588f612e60a65d48e4229c9481201"
	Held                 ID = "bba31f985ef40295fab98f0d340b8579"
	Unheld               ID = "72beb75e685e947ceafb20ee13aea54b"
	HookRan              ID = "c9c48755c70a604344f2b21279020a74"
	Collected            ID = "21eac36f1a8614399fa0bff5b6591283"
	CollectFailed        ID = "6ef9394655747d42a655ad912bbf5c4a"
	CollectionRefused    ID = "965e648cb64eee382e9f9732773c14b4"
	Strays               ID = "8072799da537901b73929a7552bcdf8e"
	Mended               ID = "76e7d9abfc6cfbf38ea3aba3b7820337"
	NotMended            ID = "35f15434f3cb8fecb37f8cc701e66c2f"
	StateLost            ID = "9d02c37744458d540c4d292cf6312de7"
	MarkerRemoved        ID = "0342ea36a7b8c57cd7139e0f05cb0794"
	MarkerRestored       ID = "b45d722c8c9e4cda6a0f3ce9ed20a6a5"
	PolicyLoaded         ID = "7c8f5664027fcc17152272ec924358a2"
	PolicyRefused        ID = "f15c7c830a7b511159a5c39aaf82aba8"
	Untracked            ID = "b4b8aeccf7a8e381fb6d82cd07a079ac"
	RunsUnreadable       ID = "f1be40892dd05117729f6b666cbdbf50"
	LeasesRefused        ID = "65813b5ad494abf63b3f48073cf2873f"
	LockReplaced         ID = "d4dc44f4c9be3472a9f478f13fb4c09d"
	SealBroken           ID = "97eb6ba58bdde7c34173bb544a290752"
	Polling              ID = "4de0965c5dc8a06b9b6b3b3c4421d5bb"
	ReadOnly             ID = "a5dffeaf755be4eaa709aa8053e9e2e6"
	Writable             ID = "b0860e9dcde53db12034676408d5fdd2"
	RepositoryUnreadable ID = "830763f6d4cd6ac6489a844e8cd7747c"
	RepositoryLeftOut    ID = "3b1e0f6c5a2d4e7f9c8b0a6d7e2f4c51"
	ServiceFailed        ID = "baddbf96fb0a3edd6f5b76159fc568f9"
	SessionFailed        ID = "b74e493e2729e0cb9d2806fdca2b532b"
	NoLocks              ID = "d1f1136fdc44b4262b2a62d636a3a98e"
	SystemStaged         ID = "dd0c3b7a3f98782d66345b32f54b7e74"
	SystemStopped        ID = "0eadd7851666965f1ebd2ff3616478db"
	SystemBooted         ID = "0e03c9ca75b98768b8fd00edd076c1eb"
	SystemCommitted      ID = "5fc59385048baa54e4a9ec63e47cbec1"
	SystemRolledBack     ID = "a253482f1dcad932c3d9ee0cb6585457"
	DataMissing          ID = "5d0b6f2c9a3e47d1b8e06a4f7c1392de"
	DataLeft             ID = "8f2b7c41d6e94a0bb35a1c9e70d4f826"
	Bug                  ID = "2ab1368915817d3ff75fb091173b05d8"
)

// Message is the catalog's entry for a kind of message. @FIELD@ represents a
// field of the entry.
type Message struct {
	ID      ID
	Subject string
	Text    string
}

// All are all kinds, in the order of their constants.
var All = []Message{
	{Serving, "lulld is ready", `The agent of lull has started, has taken up what an earlier one had left, and
answers on the bus. Applications are tracked by @LULL_TRACKER@; their end is
noticed by @LULL_EVENTS@.

lull status shows its state, lull doctor checks the machine.`},
	{RefreshBegun, "Begun: @LULL_KIND@ @LULL_INSTANCE@", `Refresh @LULL_REFRESH@ fetches and prepares a revision of @LULL_INSTANCE@.
Nothing changes for running applications until it is prepared and they are
closed.

lull monitor follows it; journalctl LULL_REFRESH=@LULL_REFRESH@ shows all of it.`},
	{RefreshResumed, "A refresh of @LULL_INSTANCE@ is resumed", `The agent was stopped, or died, or the machine did, in the middle of refresh
@LULL_REFRESH@. It goes on at the step @LULL_STEP@, or is undone if it was cut
before its commit and cannot go on.`},
	{RefreshPostponed, "The refresh of @LULL_INSTANCE@ waits until it is closed", `The new revision is prepared, and processes of the application run:
@LULL_PROCESSES@. The refresh goes on by itself the moment the last of
them has ended. If that is not before @LULL_DEADLINE@, at-deadline in the policy
says what happens.

lull pending shows all that waits, and for whom.`},
	{RefreshHeld, "The refresh of @LULL_INSTANCE@ is held", `Somebody has said "not now". The refresh goes on by itself when the hold ends.

lull status @LULL_INSTANCE@ says who holds it and until when; lull unhold
@LULL_INSTANCE@ ends one's own hold, as root all of them.`},
	{RefreshDone, "Done: @LULL_KIND@ @LULL_INSTANCE@", `Refresh @LULL_REFRESH@ (@LULL_KIND@) is done. New launches were held off for
@LULL_BLOCKED@.

If the new revision does not please, lull revert @LULL_INSTANCE@ goes back to
the one before, with the data that it had.`},
	{RefreshUndone, "Undone: @LULL_KIND@ @LULL_INSTANCE@", `Refresh @LULL_REFRESH@ has failed, and everything is as it was before:

@LULL_ERROR@

An update whose health check has failed is tried again after 8 hours, then 16,
and so on; lull refresh @LULL_INSTANCE@ tries at once.`},
	{RefreshStuck, "Stuck: @LULL_KIND@ @LULL_INSTANCE@", `Refresh @LULL_REFRESH@ has failed, and undoing it has failed too, several
times, at the step @LULL_STEP@. lull does not try any longer. The revision
before is current: applications can be started, and its services were started.
Other applications are not concerned.

lull status @LULL_INSTANCE@ shows why. When the cause has gone,
lull refresh --retry @LULL_INSTANCE@ undoes the rest.`},
	{RefreshEnded, "Failed or cancelled: @LULL_KIND@ @LULL_INSTANCE@", `Refresh @LULL_REFRESH@ has changed nothing:

@LULL_ERROR@`},
	{StepFailed, "A step of the refresh of @LULL_INSTANCE@ has failed", `Step @LULL_STEP@ of refresh @LULL_REFRESH@ has failed:

@LULL_ERROR@

What was done so far is undone. What could be undone only with a step that must
not fail is tried until it succeeds; launches of the application wait meanwhile.
If this message repeats, its cause has to be removed.`},
	{LeftToBoot, "The refresh of @LULL_INSTANCE@ is left to the next boot", `The machine goes down, and what is left of the refresh does not fit into the
time that is given. Nothing is lost: lull-boot.service applies it before anybody
logs in.`},
	{DeadlineReached, "Processes of @LULL_INSTANCE@ are ended at the deadline", `The refresh of @LULL_INSTANCE@ could be postponed until @LULL_DEADLINE@, and the
policy says "at-deadline: terminate" for it. Its processes were asked to end
and are killed 30 seconds later.

Without that line in the policy nothing is ever ended.`},
	{DeadlineKilled, "Processes of @LULL_INSTANCE@ were killed at the deadline", `They were asked to end 30 seconds before, as the policy says for this package
("at-deadline: terminate"), and did not.`},
	{Held, "@LULL_INSTANCE@ is held by @LULL_USER@", `Refreshes of it wait until @LULL_UNTIL@. A hold ends by itself, or by
lull unhold @LULL_INSTANCE@.`},
	{Unheld, "A hold on @LULL_INSTANCE@ was lifted", `What is prepared is refreshed now, unless somebody else holds it or it runs.`},
	{HookRan, "Hook @LULL_HOOK@ has run", `A package brings hooks that are run during its refresh. This one has ended;
LULL_OUTPUT has the end of what it has printed, LULL_ERROR is there if it has
failed. A failed hook undoes the refresh.`},
	{Collected, "Collected @LULL_BYTES@ bytes of @LULL_PACKAGES@ packages", `The collector has taken away what no index protects. lull gc --dry-run prints
what it would take next, lull why HASH what keeps a package.`},
	{CollectFailed, "Garbage collection failed", `The collector has stopped:

@LULL_ERROR@

Nothing that is needed was taken away.`},
	{CollectionRefused, "Nothing is collected for the time being", `@LULL_ERROR@

lull doctor says what to do about it.`},
	{Strays, "@LULL_PROCESSES@ processes use packages outside any run", `Programs of packages that were otherwise free to go run, are open or are mounted,
and were not started by lull run. As long as that is so these packages stay.

lull why PACKAGE names the processes.`},
	{Mended, "@LULL_INSTANCE@ was put right", `What the disk shows of @LULL_INSTANCE@ and what the agent remembers did not
agree, or a package was not whole. It has been put right from what is left; the
message says what was done. lull verify --repair looks at all of the store.`},
	{NotMended, "@LULL_INSTANCE@ cannot be put right", `What the disk shows of @LULL_INSTANCE@ and what the agent remembers do not
agree, and what is left does not tell how to mend it. lull doctor says what is
wrong now; lull verify --repair tries again, and fetches what is missing.`},
	{StateLost, "The agent's state was lost", `state.db was damaged. It was set aside, and rebuilt from the links, the
packages and what could be read of it. Holds and refreshes under way are
forgotten, unless messages after this one say that they were saved. If the
retained index was lost nothing is collected until it is set again.

lull doctor says what there is to do.`},
	{MarkerRemoved, "A marker of @LULL_INSTANCE@ that belonged to nothing was removed", `Somebody has made a file in /run/lull/runctl by hand, or an agent has died before
it could remove its own. Launches do not wait for it any more.`},
	{MarkerRestored, "The marker of a refresh of @LULL_INSTANCE@ was put back", `While @LULL_INSTANCE@ was being refreshed its marker in /run/lull/runctl was
removed or replaced, which would have allowed launches too early. lulld has
written it again. Nothing but lulld is to change the files there.`},
	{PolicyLoaded, "The policy was re-read", `Policy, repositories and the lists of the system's packages are as the files
below /etc/lull say now.`},
	{PolicyRefused, "The new policy is refused; the old one stays", `A file below /etc/lull cannot be used:

@LULL_ERROR@

The agent goes on with what it read before. lull policy check says what is
wrong and where; lull policy reload reads the files again.`},
	{Untracked, "@LULL_INSTANCE@ runs untracked", `The application could not be given a cgroup of its own, and allow-untracked in
the policy lets it run all the same. A refresh does not see that it runs, and may
replace it meanwhile.

lull doctor says why runs cannot be tracked.`},
	{RunsUnreadable, "Cannot determine running applications", `Cgroups could not be read:

@LULL_ERROR@

What cannot be read counts as running and as needed: refreshes wait, nothing is
collected.`},
	{LeasesRefused, "Whether @LULL_INSTANCE@ runs is read from /proc", `The kernel gives no leases of files of its package, which would prove that no
process uses them:

@LULL_ERROR@

/proc is read instead, which takes longer, and could miss a process that starts
at that moment outside of lull. lull doctor names the file system or the setting.`},
	{LockReplaced, "The launch lock of @LULL_INSTANCE@ was replaced", `@LULL_PROCESSES@ had locked it, which only launchers do, and only for moments. The
lock file was replaced by another, so that refreshes and launches go on.`},
	{SealBroken, "@LULL_INSTANCE@ did not stay vacant during a refresh", `@LULL_ERROR@

The refresh was undone before anything was changed, and waits for another moment.
A program that executes or reads files of packages by their paths does this:
lull pending @LULL_INSTANCE@ names it while it does.`},
	{Polling, "The end of applications is noticed by polling", `The kernel does not tell the agent that an application has ended, because
@LULL_REASON@. It looks every so often, which costs wake-ups and delays refreshes
by a moment.`},
	{ReadOnly, "The store cannot be written", `@LULL_ROOT@ is mounted read-only. Applications start; nothing can be installed,
refreshed or collected until it is mounted for writing again, which is noticed.`},
	{Writable, "The store is writable again", `Waiting work continues.`},
	{RepositoryUnreadable, "Repository @LULL_REPOSITORY@ cannot be read", `@LULL_ERROR@

Updates from it do not arrive until this works. It is tried again by schedule;
lull refresh tries at once.`},
	{RepositoryLeftOut, "Repository @LULL_REPOSITORY@ is left out", `@LULL_ERROR@

The file that configures it cannot be used. Updates from it do not arrive, and
nothing else is affected. lull policy reload reads the file again.`},
	{ServiceFailed, "Service @LULL_SERVICE@ of @LULL_INSTANCE@ cannot be started or stopped", `@LULL_ERROR@

lull status @LULL_INSTANCE@ shows the state of its services.`},
	{SessionFailed, "A user's session has not done its part of a refresh", `Data of user @LULL_UID@ was not migrated to the new revision of @LULL_INSTANCE@ by
the helper of the session (lull-userd). It is, when that user launches the
application the next time; the old data is not touched.`},
	{NoLocks, "Shutdown cannot be held off", `There is no logind, or it does not answer. A machine that is switched off in the
middle of a refresh loses nothing: the refresh is finished or undone at the next
boot.`},
	{SystemStaged, "System @LULL_VERSION@ is staged", `It takes effect when the machine starts the next time. lull system rollback
drops it before.`},
	{SystemStopped, "Staging an update of the system has stopped", `At step @LULL_STEP@:

@LULL_ERROR@

lull system stage goes on where it has stopped.`},
	{SystemBooted, "The machine has started with system @LULL_VERSION@", `Until it is decided about, nothing is collected, so that there is a way back.
lull system commit keeps it, lull system rollback goes back.`},
	{SystemCommitted, "System @LULL_VERSION@ is kept", `Its health hooks have passed, or it was already in use. What only the system before
needed can be collected.`},
	{SystemRolledBack, "An update of the system was rolled back", `The system that was committed last is in effect again, or stays in effect.`},
	{DataMissing, "Some data of @LULL_INSTANCE@ was not copied to its new revision", `Each revision has its own copy of the data, and something in the data of the
revision before could not be read: a file of another user, a file that was being
written to, a mount, or directories nested too deeply. The message names it.

It is still in the directory of the revision before. A user's directory is kept
for as long as a copy lacks something of it; a service's goes with its revision
(keep-revisions in the policy).`},
	{DataLeft, "Data of @LULL_INSTANCE@ that is no longer needed cannot be removed", `Something in the system data of a revision that is not kept cannot be removed, for
example because a service has mounted something there. The message names it.

It takes space, and does no other harm. After the next refresh, or the next
start of the agent, lull tries again.`},
	{Bug, "Internal error", `This should not happen. Please report it, with this entry:
journalctl -o verbose MESSAGE_ID=@MESSAGE_ID@`},
}

// Catalog is the journal catalog (systemd.journal-catalog(7)).
func Catalog() string {
	var b strings.Builder
	b.WriteString("# Generated by `go generate ./agent/lib/messages`. Installed as /usr/lib/systemd/catalog/lull.catalog.\n")
	for _, m := range All {
		b.WriteString("\n-- " + string(m.ID) + "\nSubject: " + m.Subject +
			"\nDefined-By: lull\nSupport: https://github.com/lull/lull/issues\nDocumentation: man:lulld(8) man:lull(1)\n\n" + m.Text + "\n")
	}
	return b.String()
}
