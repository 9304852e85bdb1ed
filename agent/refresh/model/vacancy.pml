/* What makes an instance vacant (see agent/refresh/seal.go, userd/launch/tether.go, agent/vacancy).
 *
 * One agent refreshes the instance from revision 1 to 2. LAUNCHERS launch it; a desktop moves what runs out of its
 * run at any time; an application executes files of its package and others, closes the tether, exits. One program
 * outside of lull executes a file of the package by its path. A service of the instance and a hook execute files of
 * the package too. The agent dies up to CRASHES times, at any step, and its leases with it.
 *
 * The kernel: a lease is granted only if nothing has the file open. An open waits for the holder of the lease; while
 * one waits, the kernel may take the lease away at any moment (fs.lease-break-time; that the look at the leases and
 * the swap are one step here is the margin of Seal.Intact). A close is told before it takes effect.
 *
 * Safety, by assert: no process of the old revision has lived between the check and the swap; what a launch executes
 * is current. No deadlock: spin's own check. Liveness, by ltl: the refresh ends, and every launch does.
 *
 * Mutants, each of which must fail: CGROUP_ONLY (runs are all that is looked at), SCAN_ONLY (what a scan finds, and no
 * lease), TETHER_AFTER_UNLOCK (the launcher opens the tether when it has let go of the lock), RELEASE_BEFORE_LINK
 * (leases are given back before the swap), NO_RECHECK (they are not looked at before it), LOOK_ONCE (a close that was
 * told is believed to have taken effect), HOLD_OVER_START (leases are kept until services have started),
 * HOLD_OVER_HOOK (all of them are kept while the hook runs).
 */
#ifndef LAUNCHERS
#define LAUNCHERS 2
#endif
#ifndef CRASHES
#define CRASHES 1
#endif

bool marker = false;    /* launches wait */
byte readers = 0;       /* launchers with the shared lock */
bool writer = false;
byte rev = 1;           /* what current names */
byte incg = 0;          /* processes of revision 1 that are in a run */
byte tether = 0;        /* open descriptions of the tether of revision 1, as the kernel counts them */
byte files = 0;         /* uses of the files of revision 1, by others than the service */
byte svcfiles = 1;      /* uses by the service */
byte alive = 0;         /* processes of the old revision: with the tether, or executing a file */
byte closing = 0;       /* closes that were told and have not taken effect */
bool lt = false, lf = false; /* the leases of the tether and of the files */
bool broken = false;    /* the kernel has taken lf away */
bool section = false;   /* from the check until the swap */
bool dirty = false;     /* a process of the old revision has lived in it */
bool woken = false, done = false;
byte crashes = 0, ended = 0;

inline wake() { woken = true }
inline lives() { alive++; dirty = dirty || section }

proctype Launcher() {
	byte mine = 0;
	bool inrun = false, tied = false, executes = false;

again:
	atomic { !writer -> readers++ };
	if
	:: marker ->
		atomic { readers--; wake() };
		atomic { !marker -> goto again }
	:: else
	fi;
	mine = rev;
#ifdef TETHER_AFTER_UNLOCK
	atomic { readers--; wake() };
#endif
	atomic {                                        /* opens the tether, with O_NONBLOCK */
		if
		:: mine == 1 && lt -> skip
		:: mine == 1 && !lt -> tether++; tied = true; lives()
		:: else -> skip
		fi
	};
	if
	:: mine == 1 && !tied ->
#ifndef TETHER_AFTER_UNLOCK
		atomic { readers--; wake() };
#endif
		atomic { !lt -> goto again }
	:: else
	fi;
	if
	:: mine == 1 -> atomic { incg++; inrun = true }   /* joins a run */
	:: skip                                         /* or stays where the desktop has put it */
	fi;
#ifndef TETHER_AFTER_UNLOCK
	atomic { readers--; wake() };
#endif
	assert(mine == rev);
	if
	:: mine == 2 -> goto end
	:: else
	fi;
	atomic { files++; executes = true };            /* exec: the tether keeps the lease away */
	do
	:: inrun -> atomic { incg--; inrun = false; wake() }        /* moved out of its run */
	:: executes && tied -> atomic { wake(); closing++; executes = false };  /* executes something else */
		atomic { closing--; files-- }
	:: executes && tied -> atomic { wake(); closing++; tied = false };      /* closes what it has inherited */
		atomic { closing--; tether-- }
	:: break
	od;
	/* exits: all that it has is closed, and counts for a moment more */
	atomic { wake(); closing++; alive-- };
	atomic {
		if :: tied -> tether-- :: else fi;
		if :: executes -> files-- :: else fi;
		if :: inrun -> incg--; wake() :: else fi;
		closing--
	};
end:
	ended++
}

/* executes a file of revision 1 by its path, once */
proctype Stranger() {
	if
	:: atomic { !lf -> files++; lives() }
	:: atomic { lf -> skip };                       /* waits in the kernel */
		if
		:: atomic { !lf -> files++; lives() }
		:: atomic { lf -> lf = false; broken = true; files++; lives() }
		fi
	fi;
	atomic { wake(); closing++; alive-- };
	atomic { closing--; files-- }
}

#define MAYDIE if :: atomic { crashes < CRASHES -> crashes++; if :: mine -> writer = false; mine = false :: else fi; lt = false; lf = false; broken = false; section = false; dirty = false; woken = false; again = false; goto restart } :: skip fi

active proctype Agent() {
	bool mine = false;  /* the exclusive lock */
	bool again = false; /* denied already since it was woken */

	atomic {
		run Launcher();
#if LAUNCHERS > 1
		run Launcher();
#endif
		run Stranger()
	};
	goto wait;

restart:
	if
	:: rev == 2 -> goto start
	:: else -> svcfiles = 1; marker = false         /* undone: the old service runs again */
	fi;

wait:
	MAYDIE;
	if
	:: atomic { readers == 0 && !writer -> writer = true; mine = true }
	:: atomic { readers > 0 || writer -> goto park }
	fi;
	MAYDIE;
	if
	:: incg > 0 -> atomic { writer = false; mine = false; goto park }
	:: else
	fi;
#ifndef CGROUP_ONLY
	/* the leases; those of the service's files cannot be had yet, and the hook is still to run */
	atomic {
		if
		:: tether + files > 0 -> writer = false; mine = false; goto denied
		:: else ->
#ifndef SCAN_ONLY
			lt = true;
#ifdef HOLD_OVER_HOOK
			lf = true;
#endif
#endif
			section = true; dirty = false
		fi
	};
#else
	atomic { section = true; dirty = alive > 0 };
#endif
	marker = true;
	MAYDIE;
	atomic { writer = false; mine = false };
	MAYDIE;
	atomic { !lf -> skip };                         /* the pre-refresh hook executes a file of the package */
	MAYDIE;
	svcfiles = 0;                                   /* the service has ended */
#ifndef CGROUP_ONLY
#ifndef SCAN_ONLY
	/* the rest, when what was told to be closed is */
	closing == 0;
	atomic {
		if
		:: tether + files > 0 -> goto undo
		:: else -> lf = true; broken = false; dirty = false
		fi
	};
#endif
#endif
	MAYDIE;
	skip;                                           /* data is copied */
	MAYDIE;
#ifdef RELEASE_BEFORE_LINK
	atomic { lt = false; lf = false };
#endif
	atomic {
#ifndef NO_RECHECK
		if
		:: broken -> goto undo
		:: else
		fi;
#endif
		assert(!dirty && alive == 0);
		rev = 2;
		section = false
	};
	MAYDIE;
#ifndef HOLD_OVER_START
	atomic { lt = false; lf = false };
#endif

start:
	MAYDIE;
	atomic { !lf -> skip };                         /* the new service executes a file that has not changed */
	atomic { lt = false; lf = false };
	MAYDIE;
	marker = false;
	MAYDIE;
	done = true;
	goto end;

undo:
	atomic { lt = false; lf = false; broken = false; section = false; dirty = false };
	svcfiles = 1; again = false;
	marker = false;
	goto wait;                                      /* in time, and there it is seen who is in the way */

denied:
#ifndef LOOK_ONCE
	if
	:: !again -> again = true; closing == 0; goto wait     /* the patience of the look: what was told before it has taken effect */
	:: else
	fi;
#endif
park:
	MAYDIE;
	atomic { woken -> woken = false; again = false };
	goto wait;

end:
	skip
}

/* the refresh ends, and so does every launch */
ltl ends { <> (done && ended == LAUNCHERS) }
