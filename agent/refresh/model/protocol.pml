/* The launch and inhibit protocol of one instance (see agent/refresh, userd/launch, agent/lib/runctl).
 *
 * One agent refreshes the instance from revision 1 to 2 while LAUNCHERS launch it. Everybody may die at any
 * step, the agent up to CRASHES times (it is started again), launchers for good. Locks die with their holder;
 * markers and links stay.
 *
 * Safety, by assert: nothing of the old revision runs during the copy and at the swap; the agent's markers are gone at the end.
 * No deadlock: spin's own check for invalid end states.
 * Liveness, by ltl: the refresh ends, and every launch gets in or has died. Checked with weak fairness; the
 * applications end by themselves, otherwise nobody would have to wait for a lull.
 *
 * Mutants, each of which must fail: CHECK_OUTSIDE (the agent looks for runs before it takes the lock and not
 * again), JOIN_AFTER_UNLOCK (the launcher lets go before it has joined), WATCH_AFTER_LOOK (the launcher begins
 * to listen after it has looked at the marker), DEAF_TO_CLOSE (letting go of the lock wakes nobody),
 * SILENT_AFTER_MARKER (the release agent gives no sign after it has removed the marker of a run, though the agent
 * may have come for the lock before it let go).
 * (An else beside an option that can always be taken is never taken in Promela, hence the skips.)
 *
 * BLOCK: the policy that keeps new launches out while a refresh waits.
 */
#ifndef LAUNCHERS
#define LAUNCHERS 2
#endif
#ifndef CRASHES
#define CRASHES 1
#endif

mtype = { none, pending, inprogress, starting };

mtype marker = none;
byte readers = 0;       /* launchers with the shared lock */
bool writer = false;    /* the agent, or a release agent, has the exclusive one */
byte old = 0, new = 0;  /* live runs by revision */
byte rev = 1;           /* what current names */
bool woken = false;     /* an event for the agent that it has not looked at; many are one */
bool hears[LAUNCHERS];  /* a launcher's inotify watch is set up */
bool event[LAUNCHERS];  /* and has something to tell */
bool copying = false, done = false;
byte crashes = 0, ended = 0;

#define vacant (old + new == 0)

inline wake() { woken = true }

inline changed() {      /* inotify tells who listens that the marker is gone */
	i = 0;
	do
	:: i < LAUNCHERS -> if :: hears[i] -> event[i] = true :: else fi; i++
	:: else -> break
	od;
	i = 0
}

inline unlock_read() {
	readers--;
#ifndef DEAF_TO_CLOSE
	wake()
#endif
}

proctype Launcher(byte me) {
	byte mine = 0;
	bool locked = false, told = false;

again:
	atomic { !writer -> readers++ };
	if
	:: skip
	:: atomic { unlock_read(); goto dead }          /* dies */
	fi;
	if
	:: marker != none ->
		atomic { unlock_read() };
#ifdef WATCH_AFTER_LOOK
		if :: marker == none -> goto again :: else fi;
		hears[me] = true;
#else
		hears[me] = true;
		if :: marker == none -> atomic { hears[me] = false; event[me] = false; goto again } :: else fi;
#endif
		if
		:: skip
		:: atomic { hears[me] = false; goto dead }  /* dies while it waits */
		fi;
		atomic { event[me] -> event[me] = false; hears[me] = false; goto again }
	:: else
	fi;
	mine = rev;
#ifdef JOIN_AFTER_UNLOCK
	atomic { unlock_read() };
#endif
	if
#ifndef JOIN_AFTER_UNLOCK
	:: atomic { unlock_read(); goto dead }          /* dies before it has joined */
#endif
	:: atomic { skip; if :: mine == 1 -> old++ :: else -> new++ fi }
	fi;
#ifndef JOIN_AFTER_UNLOCK
	atomic { unlock_read() };
#endif
	/* it runs, and ends; dying is no different */
	atomic { skip; if :: mine == 1 -> old-- :: else -> new-- fi };
	if
	:: wake()                                       /* cgroup.events tell the agent */
	:: skip;                                        /* the kernel calls the release agent, which does not wait */
		if
		:: atomic { readers == 0 && !writer -> writer = true; locked = true }
		:: atomic { readers > 0 || writer -> skip }
		fi;
		if
		:: locked ->
			if :: vacant -> wake(); told = true :: else -> skip fi; /* .running is removed */
			atomic { writer = false }
		:: else
		fi;
#ifdef SILENT_AFTER_MARKER
		if :: told :: else -> wake() fi
#else
		wake()                                      /* a sign, when the lock is free */
#endif
	fi;
dead:
	ended++
}

#define MAYDIE if :: atomic { crashes < CRASHES -> crashes++; if :: mine -> writer = false; mine = false :: else fi; woken = false; copying = false; goto restart } :: skip fi

active proctype Agent() {
	byte i = 0;
	bool mine = false;  /* the exclusive lock */

	run Launcher(0);
#if LAUNCHERS > 1
	run Launcher(1);
#endif
#if LAUNCHERS > 2
	run Launcher(2);
#endif
	goto wait;

restart:                /* the link says how far it came */
	if
	:: rev == 2 -> marker = starting; goto health
	:: else ->
		atomic { marker = none; changed() }
	fi;

wait:
	if
	:: !vacant -> goto park
	:: else
	fi;
	MAYDIE;
	if
	:: atomic { readers == 0 && !writer -> writer = true; mine = true }
	:: atomic { readers > 0 || writer -> goto park }
	fi;
#ifndef CHECK_OUTSIDE
	if
	:: !vacant ->
#ifdef BLOCK
		marker = pending;
#endif
		atomic { writer = false; mine = false };
		MAYDIE;
		goto park
	:: else
	fi;
#endif
	MAYDIE;
	marker = inprogress;
	MAYDIE;
	atomic { writer = false; mine = false };
	MAYDIE;
	copying = true;
	assert(old == 0);
	MAYDIE;
	copying = false;
	assert(old == 0);
	rev = 2;            /* the rename */
	MAYDIE;
	marker = starting;

health:
	MAYDIE;
	if
	:: skip             /* well */
	:: vacant && crashes == 0 -> rev = 1; done = true   /* sick: everything back; it is not tried again here */
	fi;
	MAYDIE;
	atomic { marker = none; changed() };
	MAYDIE;
	done = true;
	assert(marker == none);
	goto end;

park:
	MAYDIE;
	atomic { woken -> woken = false };
	goto wait;

end:
	skip
}

/* nothing of the old revision runs while its data is copied */
ltl quiet { [] (copying -> old == 0) }
/* the refresh ends, and so does every launch */
ltl ends { <> (done && ended == LAUNCHERS) }
