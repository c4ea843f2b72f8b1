package guardtest

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"ntpveil/guard"
	"ntpveil/rules"
)

// Scenario plays a script in a world without accidents and returns the script
// with what came of it. Lines that begin with "> " are the script; what follows
// each is rewritten. Empty lines and lines that begin with # are kept.
//
//	> start [rotate=server] [observe] [shield=off|observe] [hold=30m] [ask-stable]
//	> run 10s          lets the world turn
//	> plan             prints the last plan
//	> status           prints clock, servers, shield and weaknesses
//	> server 3 lie=1h | silent | kiss=DENY | honest
//	> offset 3s        the clock of the host is off by so much
//	> flush | linkdown | linkup | prefix | noipv6 | deaf6 (IPv6 leads nowhere) | diskfull | diskok | kernelbad | kernelok | lose | suspend 1h
//	> sync | disarm 1h | arm | kill | stop
//	> apply lockdown 60s [ssh] | confirm [old|new] | revert [ssh] | reload [mode=observe | mode=]
//	> rules            prints which preset holds, and what is in force
func Scenario(script string) (string, error) {
	w := newWorld(1)
	w.quiet = true
	var out strings.Builder
	for _, line := range strings.Split(strings.TrimRight(script, "\n"), "\n") {
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
			fmt.Fprintln(&out, line)
		case strings.HasPrefix(line, "> "):
			fmt.Fprintln(&out, line)
			text, err := w.play(strings.Fields(line[2:]))
			if err != nil {
				return "", fmt.Errorf("%s: %w", line, err)
			}
			out.WriteString(text)
			if w.judge.broken != nil {
				return "", fmt.Errorf("%s: %w", line, w.judge.broken)
			}
		}
	}
	return out.String(), nil
}

// play carries one line out and returns what it prints.
func (w *World) play(words []string) (string, error) {
	verb, args := words[0], words[1:]
	plain := map[string]func(){
		"flush": w.flush, "prefix": w.newPrefix, "lose": w.loseAddress, "kill": w.kill,
		"linkdown": func() { w.net.up = false; w.dropLink(); w.tellHost() }, "linkup": func() { w.net.up = true; w.tellHost() },
		"deaf6":  func() { w.net.deaf6 = true },
		"noipv6": func() { w.net.noV6 = true; w.tellHost() }, "diskfull": func() { w.diskBad = true }, "diskok": func() { w.diskBad = false },
		"kernelbad": func() { w.judge.trouble = 1; w.pokeWorker() }, "kernelok": func() { w.judge.trouble = 0 },
		"sync": w.orderSync, "arm": func() { w.order1("arm", 0) }, "stop": w.stop,
	}
	if do := plain[verb]; do != nil {
		do()
		return w.replied(), nil
	}
	switch verb {
	case "start":
		return "", w.configureBy(args)
	case "plan":
		return w.plan.String(), nil
	case "status":
		return statusText(w.guard.Status(w.now)), nil
	case "server":
		return "", w.setServer(args)
	case "apply", "confirm", "revert":
		if err := w.orderRules(words); err != nil {
			return "", err
		}
		return w.replied(), nil
	case "reload":
		for _, a := range args { // what [shield] says from now on
			w.conf.Shield, w.conf.Written.Mode = rules.Enforce, a != "mode="
			if a == "mode=observe" {
				w.conf.Shield = rules.Observe
			}
		}
		w.step(guard.Configured{Config: w.conf})
		return "", nil
	case "rules":
		s := w.guard.Status(w.now).Shield
		text := fmt.Sprintf("preset=%s applied=%t shield=%s", s.Preset, s.Applied, s.State)
		if s.ConfirmBy != nil {
			text += " to be confirmed"
		}
		return text + "\n", nil
	}
	d, err := time.ParseDuration(strings.Join(args, ""))
	if err != nil {
		return "", fmt.Errorf("unknown line, or no duration: %w", err)
	}
	switch verb {
	case "run":
		return "", w.Run(d)
	case "offset":
		w.offset = d
	case "suspend":
		w.now.Boot, w.now.Wall = w.now.Boot+d, w.now.Wall.Add(d)
	case "disarm":
		w.order1("disarm", d)
	default:
		return "", fmt.Errorf("unknown line")
	}
	return w.replied(), nil
}

// replied is the replies of the last plan.
func (w *World) replied() string {
	var b strings.Builder
	for _, r := range w.plan.Replies {
		if r.Err != "" {
			fmt.Fprintf(&b, "refused: %s\n", r.Err)
		}
	}
	return b.String()
}

func (w *World) configureBy(args []string) error {
	for _, a := range args {
		key, value, _ := strings.Cut(a, "=")
		switch key {
		case "rotate":
			w.conf.Rotate = value
		case "observe":
			w.conf.Observe = true
		case "shield":
			w.conf.Shield = map[string]rules.Mode{"off": rules.Off, "observe": rules.Observe}[value]
		case "ask-stable":
			w.conf.IfImpossible = "ask-stable"
		case "hold":
			w.conf.Hold, _ = time.ParseDuration(value)
		default:
			return fmt.Errorf("unknown word %q", a)
		}
	}
	w.start()
	return nil
}

func (w *World) setServer(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("a number and what it does")
	}
	i, err := strconv.Atoi(args[0])
	if err != nil || i < 0 || i >= len(w.net.pool) {
		return fmt.Errorf("no server %q", args[0])
	}
	p := &w.net.pool[i]
	key, value, _ := strings.Cut(args[1], "=")
	switch key {
	case "lie":
		p.lie, err = time.ParseDuration(value)
	case "silent":
		p.silent = true
	case "kiss":
		p.kiss = value
	case "honest":
		*p = peer{addr: p.addr}
	default:
		err = fmt.Errorf("unknown behaviour %q", key)
	}
	return err
}

func statusText(s guard.Status) string {
	var b strings.Builder
	near := math.Round(s.Clock.Offset*10)/10 + 0 // what the servo makes of the servers' noise is not what these scenarios hold
	fmt.Fprintf(&b, "synchronized=%t offset=%.1f leap=%s shield=%s exposures=%d neighbourhoods=%d\n",
		s.Synchronized, near, s.Clock.Leap, s.Shield.State, s.ExposureCount, len(s.Neighbourhoods))
	for _, x := range s.Servers {
		fmt.Fprintf(&b, "server %s %s reach=%08b %s\n", x.Address, x.State, x.Reach, x.Reason)
	}
	for _, x := range s.Weaknesses {
		fmt.Fprintf(&b, "weakness %s: %s\n", x.Code, x.Text)
	}
	return b.String()
}
