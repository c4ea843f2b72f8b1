// Package guard decides. Events go in, a plan comes out; nothing here owns a
// goroutine, a socket, a file, a clock or a logger.
//
// # Picture
//
//	 names      host      kernel     ledger     servers    admins
//	   │          │          │          │          │          │
//	resolve     ipaddr   nft, ipaddr  ledger  query, nts  control      adapters: small, no decisions, no retries
//	   │          │          │          │          │          │
//	   ▼          ▼          ▼          ▼          ▼          ▼
//	Resolved  HostSeen  KernelSeen  Recorded   Answered   Ordered       events
//	                                            Keyed
//	   └──────────┴──────────┴────┬─────┴──────────┴──────────┘
//	                              ▼
//	                  Guard.Step(at, event) Plan                        the only place that decides
//	                              │
//	   ┌──────────┬──────────┬────┴─────┬──────────┬──────────┐
//	   ▼          ▼          ▼          ▼          ▼          ▼
//	Lookups    Kernel    Asks, Keyings  Fix     Records    Replies      the plan
//
// Step absorbs the event, advances to a fixed point and derives the whole plan.
// Only the plan functions write the plan, and they decide nothing. A second Step
// at the same instant changes nothing.
//
// # One sync
//
// A round begins up to five seconds before it is due. For every server that its
// bucket allows:
//
//	record the exposure ─► Recorded ─► wish guard, tuple, neighbourhood, address
//	─► KernelSeen covers all of it, the address is ready ─► gate.go makes the pass
//	─► Ask in the plan ─► Answered ─► socket and tuple linger 3 s ─► tripwire
//
// When the last exchange is over the samples vote (package selection), once each,
// and at most one Fix follows.
//
// # NTS
//
// A host of time.nts is a server that is asked with protection or not at all. Its
// key exchange goes the way of a query: a token of the bucket, an exposure on disk,
// an address of its own, a solicited tuple (of TCP), the gate. It comes before the
// sync, when there is no cookie left, and between two syncs, when the keys are a day
// old or three polls in a row brought nothing but a NAK, which proves nothing: until
// then, and while it fails, the old keys hold.
//
//	no keys ─► Keying ─► Keyed ─► (look-up of the server that it names) ─► ready
//	   ▲                                                                     │
//	   └── no cookie left, another network, a refused server ◄───────────────┘
//
// A cookie is spent when a query is begun; the query waits for the record of it.
// Each query asks for as many as bring them back to eight. Failed exchanges count
// until keys brought an answer: 64 s, doubled up to an hour.
//
// A machine has one vote, whoever leads to it: of hosts that lead to one address the
// first whose keys bring an answer, before whoever is asked there without protection.
// The word of a host alone takes nothing from another one. Beside hosts of time.nts
// nobody is believed without one of them: else dropping their packets is enough to
// be rid of NTS (RFC 8915 section 8.7).
//
// # Files, one a noun
//
//	guard.go    Step, time, keys             names.go    pools and configured names
//	servers.go  places, buckets, kisses      replace.go  who loses a place
//	address.go  throw-away addresses         letters.go  states of a server
//	query.go    one exchange                 gate.go     the pass: promise 1
//	hoods.go    neighbourhoods               shield.go   the kernel's part of the plan
//	round.go    when to sync, the vote       clock.go    the correction and its limits
//	steer.go    what is learnt of the clock
//	keys.go     NTS keys and cookies         secret.go   what is never printed
//	machine.go  where keys lead, whose vote it is
//	orders.go   what admins want             ledger.go   records, and what was restored
//	host.go     facts and what they allow    report.go   status
//	leap.go     leap seconds                 saved.go    the clock over a reboot
//	dhcp.go     servers that the network names
//	applied.go  the preset that was applied  session.go  where that was typed
//
// # The clock
//
//	samples of a sync ─► vote (selection) ─► servo: phase, frequency, their errors ─► Fix: step or slew, and frequency
//
// The vote is above the servo: only samples that it selected are learnt from, and
// an estimate outside of what it agreed on is given up for it. The servo follows
// the raw clock below all corrections; where we observe, they are made to a
// virtual clock ahead of the host's. What moves the clock counts against
// clock.max_change: steps, slews, and a frequency beyond any honest crystal's. A step
// is on disk before it is made, with what the clock would have shown at boot, by which
// a later run sees whether it was (TestKilledBesideAStep). A step by others, a resume,
// a failed correction: the phase is taken anew from the next vote, the frequency
// stays. Another network: what was learnt of the ways is
// forgotten, the frequency stays. One correction is on its way at a time, and no sync
// is judged meanwhile. What the kernel may believe of its clock, by an earlier run's
// word too, it is told otherwise as soon as we believe it no longer (TestNothingSticks).
//
// # States of a throw-away address
//
//	unrecorded ─► held ─► leaving ─► dead ─► forgotten
//	   not on      wished    no longer   gone; its     its guard
//	   disk yet    guarded   wished      guard stays   ran out
//
// An address that vanished goes from held to dead and is never wished again. A
// guard's deadline is fixed when the address is made, a day after the address's
// own, and is never shortened.
//
// # Servers that the network names
//
// They vote with the others, but never outvote them: a vote that they alone won is
// annulled as long as any other answered one of its last eight queries. After that
// as many as are to be had, or min_agree, are believed alone, and status says so.
//
// # Leap seconds
//
// The kernel is told of one on 30 June and 31 December (UTC) alone, as long as the
// majority announces it, and at the next vote in which none does, or that nobody
// wins, it is told otherwise. No sync begins so late before one that an exchange
// could span it, and what is under way is given up. True time and the clock step
// together: all that was learnt holds. In the hour after it a vote that is half a
// second off from our own clock moves nothing, and its servers are named: they are
// late for it. Who observes lets the virtual clock do what the kernel was not told.
//
// # Presets that are applied
//
//	apply ─► recorded, wished ─► in force, on disk: reply ─► confirm ─► holds until the reboot
//	                                                     └─► time is up, or revert ─► what was before, as it was
//
// The record holds both presets as text, for their files may change, and the time
// as CLOCK_MONOTONIC of this boot: a step of the clock moves nothing, a reload ends
// nothing, and a daemon that is killed goes on counting when it is back. The keys of
// [shield] win over any preset's: a reload and a restart lay them over the one that
// was applied, whose text without them is in the record, too. Where none
// comes back, or none ever ran, a process that `ntpveil rules apply` left behind puts
// back a copy of the table, taken before, by netlink (nft.Copy). It leaves a daemon
// that runs alone. TestApplyAndLoseContact and TestApplyUnderDaemon kill the command
// and the daemon, TestWorld judges every apply.
//
// Only a session confirms that began after the apply, for established connections
// outlive any rules. A session is that of a login, as the kernel's audit has it, and
// as old as its oldest process. The command tells it and not the peer's credentials:
// the service may not look into /proc, and root can only deceive itself.
//
// # Promises, and where they are kept
//
//	1 Shield first       gate.go            TestWorld, TestArrival (at the server, before the answer), TestForeignFlush
//	2 Temporary          address.go, nft    TestKilledBetweenAnyTwoCalls, TestStopAndAdopt
//	3 Only ours          address.go adopt   TestWorld (an admin's address of our shape), the conformance of addresses
//	4 Solicited passes   package rules      TestNeighbourhood, TestPresetTables, TestPublishedPorts, TestSessionsOutliveTheClosing, TestWhatMustPass, TestOneExchangePasses,
//	                                         TestOneKeyExchangePasses
//	  and nothing else   package rules      TestScansOfTheThrowAway, TestElicitors, TestNeighbourDiscoveryWithTricks, TestNothingAnswers
//	5 Nobody else's      host.go, ipaddr    the conformance of addresses (never a default source), TestElicitors (no listener answers)
//	6 No server alone    selection, clock   TestOneHostileServer, TestLimitsOfTheClock, TestVotesAsChronydDoes, TestDelayedOneWay,
//	                                         TestNetworkDoesNotOutvote, TestMinorityMovesNothing, TestMajorityMeetsTheLimits
//	7 Evidence           report.go          exposures and the packets dropped to them are counted; no more is claimed
//	8 Restraint          servers.go         TestWorld, TestTwentyRestarts, TestBuckets, TestDenialsAreKept
//	9 What it cannot do  report.go          TestRotation, TestNoPrefix, the scenarios
//
// # What reaches whom
//
//	to                     from                     what passes
//	a throw-away address   anyone                   NS and NA, hop limit 255, no extension header, as long as it stands
//	                       its server               the one solicited tuple, of UDP or of a key exchange's TCP, until 3 s after the exchange
//	                       anyone                   nothing else, before defragmentation and DNAT, on any device
//	from a throw-away      anyone                   NS and NA, and the one solicited tuple
//	the stable address     a closed neighbourhood   what the host began, ND and RA, DHCP replies, the ICMP errors of RFC 4890, trusted, allow
//	a port it publishes    a closed neighbourhood   what was begun before, trusted, allow (by the port that is published)
//	the stable address     anyone else              everything: what other tables say holds
//
// That is the workstation's. Presets change it (package rules, TestPresetTables):
//
//	server      what a socket listens for, or is published, passes from a closed neighbourhood too
//	router      the hosts behind are guarded alike, against what comes in by an outside device
//	companion   the kernel learns the neighbourhoods from other daemons' queries; there is no core
//	observe     everything passes, and is counted
//	lockdown    everyone is met as a closed neighbourhood is, and has no link-local way in
//
// A neighbourhood is the preset's prefix, narrowed where it holds something of the
// host's own. What the kernel learns by itself cannot be narrowed: around the host's
// own nothing is learnt.
//
// With NTS: no cookie is used twice, on two networks or after a restart, and no host
// of time.nts is asked without protection (TestWorld, TestKeysOfADay); no lie of an
// answer or of a key exchange is believed (package nts: TestNoLieIsBelieved,
// TestNoRecordThatLiesIsTaken, TestWhoeverIsNotTheServer); no host takes the server of
// another, votes twice or is stood in for (TestNoHostTakesTheServerOfAnother,
// TestOneMachineHasOneVote, TestNobodyStandsInForHosts); against real servers TestNTS.
//
// # Lists of prefixes
//
// shield.files cross the plan as name, digest and how many prefixes of each length
// there are; the adapter reads the files again, fills sets that no rule looks at yet
// (Shield.Block), and then changes the rules in one transaction. They come last in
// the worker's pass, and no query waits for them. Who put the table up anew, as for
// another preset or after a restart, is without the lists until they are filled.
// A prefix of a list is met as a neighbourhood that never opens, but for what is the
// host's own (set near6), which no list can close.
//
// # Where this differs from the first design
//
// A plan carries Kernel.Act: before configuration, ledger, host and kernel are
// all known the worker looks and touches nothing, for an empty wish would remove
// what an earlier run left. The worker is woken only by a wish that differs from
// the last, for its report leads to a plan and would otherwise lead to itself.
// The worker retries after an error, with pauses from 1 s to 30 s: the core has
// nothing to add to that. Where the ledger cannot be written no query leaves.
// Samples are judged only within the round that took them.
package guard
