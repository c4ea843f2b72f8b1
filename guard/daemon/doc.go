// Package daemon is the loop: one goroutine owns the [guard.Guard], steps it
// with every event and hands the plan to the adapters.
//
// Concurrency: the loop's goroutine alone touches the Guard. Adapters run in
// goroutines of their own (the kernel worker, one a job, the recorder, the
// watches) and speak to the loop through one channel of events. The loop never
// waits for any of them; what they are given is the latest wish, or a job that
// is begun once and cancelled when it is no longer in the plan.
package daemon
