package selection

import (
	"encoding/binary"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

// random makes candidates around a true offset: most tell the truth, liars say
// anything, some of it close to the truth.
func random(r *rand.Rand) (cands []Candidate, truth time.Duration, honest int) {
	n := 1 + r.IntN(9)
	liars := r.IntN((n + 1) / 2)
	truth = time.Duration(r.Int64N(int64(time.Hour))) - time.Hour/2
	for i := range n {
		spread := time.Millisecond << r.IntN(10)
		c := Candidate{Sample: Sample{Stratum: uint8(1 + r.IntN(15)), Leap: uint8(r.IntN(3)), RootDelay: 2 * spread}}
		off := time.Duration(r.Int64N(int64(2*spread)+1)) - spread // within the distance
		if i < liars {
			off *= time.Duration(1 + r.IntN(20))
			c.Sample.RootDelay /= 1 << r.IntN(10)
			c.Sample.Leap = uint8(r.IntN(5))
		}
		c.Sample.Offset = truth + off
		cands = append(cands, c)
	}
	return cands, truth, n - liars
}

// TestMinorityMovesNothing: liars that are fewer than half of the usable never
// move the combined offset outside what the honest span, nor make its error a lie.
func TestMinorityMovesNothing(t *testing.T) {
	for seed := range uint64(20000) {
		cands, truth, honest := random(rand.New(rand.NewPCG(seed, 1)))
		res := Judge(cands, honest)
		if !res.Agreed {
			t.Fatalf("seed %d: %d honest do not agree: %s", seed, honest, res.Reason)
		}
		low, high := truth, truth
		for _, c := range cands[len(cands)-honest:] {
			low = min(low, c.Sample.Offset-c.Sample.RootDistance())
			high = max(high, c.Sample.Offset+c.Sample.RootDistance())
		}
		if res.Offset < low || res.Offset > high {
			t.Fatalf("seed %d: offset %s is outside %s to %s: %+v", seed, res.Offset, low, high, cands)
		}
		if off := (res.Offset - truth).Abs(); off > res.Error+time.Nanosecond {
			t.Fatalf("seed %d: the offset is %s off and claims %s: %+v", seed, off, res.Error, cands)
		}
	}
}

// TestOrderChangesNothing: whatever order the candidates come in.
func TestOrderChangesNothing(t *testing.T) {
	for seed := range uint64(5000) {
		r := rand.New(rand.NewPCG(seed, 2))
		cands, _, honest := random(r)
		for i := range cands { // every other time whole milliseconds of one width: means on the edge of rounding
			if seed%2 == 0 {
				break
			}
			cands[i].Sample.Offset, cands[i].Sample.RootDelay = cands[i].Sample.Offset.Round(time.Millisecond), 300*time.Millisecond
		}
		want := Judge(cands, honest)
		perm := r.Perm(len(cands))
		shuffled, verdicts := make([]Candidate, len(cands)), make([]Verdict, len(cands))
		for to, from := range perm {
			shuffled[to], verdicts[to] = cands[from], want.Verdicts[from]
		}
		want.Verdicts = verdicts
		if got := Judge(shuffled, honest); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: %+v, in another order %+v", seed, want, got)
		}
	}
}

// TestUnusableChangesNothing: an unusable sample alters nobody else's verdict.
func TestUnusableChangesNothing(t *testing.T) {
	for seed := range uint64(5000) {
		r := rand.New(rand.NewPCG(seed, 3))
		cands, _, honest := random(r)
		want := Judge(cands, honest)
		at := r.IntN(len(cands) + 1)
		bad := Candidate{Sample: Sample{Stratum: 0, Offset: time.Duration(r.Uint64())}}
		got := Judge(slices.Insert(slices.Clone(cands), at, bad), honest)
		got.Verdicts = slices.Delete(got.Verdicts, at, at+1)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: %+v, with an unusable one %+v", seed, want, got)
		}
	}
}

// FuzzJudge reads samples out of bytes: any value of any field.
func FuzzJudge(f *testing.F) {
	f.Add(int8(1), make([]byte, 150))
	f.Add(int8(3), []byte("\xff\xff\xff\xff\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, minAgree int8, data []byte) {
		var cands []Candidate
		next := func() time.Duration {
			var b [8]byte
			data = data[copy(b[:], data):]
			return time.Duration(binary.LittleEndian.Uint64(b[:]))
		}
		for len(data) > 0 && len(cands) < 20 {
			small := data[0]
			data = data[1:]
			c := Candidate{Age: next(), Sample: Sample{Offset: next(), Delay: next(), Dispersion: next(), RootDelay: next(),
				RootDisp: next(), Stratum: small & 31, Leap: small >> 5, Precision: next()}}
			if small&16 == 0 { // one that may well be usable
				s := &c.Sample
				for _, d := range []*time.Duration{&c.Age, &s.Delay, &s.Dispersion, &s.RootDelay, &s.RootDisp} {
					*d = (*d & (1<<29 - 1))
				}
				s.Offset >>= small & 15
			}
			cands = append(cands, c)
		}
		check(t, cands, int(minAgree), Judge(cands, int(minAgree)))
	})
}

// check is what holds of any judgement.
func check(t *testing.T, cands []Candidate, minAgree int, res Result) {
	count := map[State]int{}
	for _, v := range res.Verdicts {
		count[v.State]++
		if (v.Reason == "") != (v.State == Selected) {
			t.Errorf("state %d for the reason %q", v.State, v.Reason)
		}
	}
	switch {
	case len(res.Verdicts) != len(cands):
		t.Errorf("%d verdicts of %d candidates", len(res.Verdicts), len(cands))
	case !res.Agreed && (res.Reason == "" || count[Selected]+count[Falseticker] > 0 || res.Offset != 0):
		t.Errorf("no agreement, but %+v", res)
	case res.Agreed && (res.Reason != "" || count[Undecided] > 0 || count[Selected] < minAgree || count[Selected] <= count[Falseticker]+count[Apart]):
		t.Errorf("agreed, but %+v", res)
	case res.Agreed && (res.Error < minHalfWidth || res.Error > 4*maxDistance || res.Stratum < 2 || res.Stratum > 16 || res.Leap > 2):
		t.Errorf("out of range: %+v", res)
	}
	if !res.Agreed {
		return
	}
	var low, high time.Duration = maxOffset, -maxOffset
	for i, v := range res.Verdicts {
		if v.State == Selected {
			low, high = min(low, cands[i].Sample.Offset), max(high, cands[i].Sample.Offset)
		}
	}
	if res.Offset < low-maxDistance || res.Offset > high+maxDistance {
		t.Errorf("offset %s is far from the selected, %s to %s", res.Offset, low, high)
	}
}

// TestKiss: what each code asks for, and what spells none.
func TestKiss(t *testing.T) {
	for code, want := range map[string]KissAction{"DENY": KissDeny, "RSTR": KissDeny, "RATE": KissRate, "": KissNone, "INIT": KissNone,
		"STEP": KissNone, "rate": KissNone, "RATE\x00": KissNone, "NTSN": KissNone, "X": KissNone} {
		if got := Kiss(code); got != want {
			t.Errorf("%q asks for %d, want %d", code, got, want)
		}
	}
}
