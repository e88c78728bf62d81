package router

import (
	"net/netip"
	"time"
)

// How many Releases may wait for their Reply, and how long: clients repeat
// theirs for some 15 seconds (REL_TIMEOUT 1 s, REL_MAX_RC 4, RFC 9915 section
// 7.6).
const (
	maxReleases   = 4096
	releaseLasts  = time.Minute
	maxReleaseIAs = 64 // prefixes in one
)

// releases remembers what clients' Release messages name, because the Reply
// that confirms one does not say it again (RFC 9915 section 18.3.7). A Release
// by itself changes nothing. The zero value is ready for use.
type releases struct {
	waiting map[exchange]waiting
	order   []exchange // oldest first
}

type waiting struct {
	prefixes []iaPrefix
	until    time.Time
}

// add takes note of a Release.
func (r *releases) add(x exchange, d delegation, now time.Time) {
	if len(d.prefixes) == 0 || len(d.prefixes) > maxReleaseIAs {
		return
	}
	if r.waiting == nil {
		r.waiting = map[exchange]waiting{}
	}
	if _, again := r.waiting[x]; !again {
		r.order = append(r.order, x)
	}
	r.waiting[x] = waiting{d.prefixes, now.Add(releaseLasts)}
	for len(r.order) > 0 && (len(r.order) > maxReleases || !r.waiting[r.order[0]].until.After(now)) {
		delete(r.waiting, r.order[0])
		r.order = r.order[1:]
	}
}

// confirmed returns the prefixes that a Reply confirms to be released: those of
// the Release that it answers, without the IAs that the server does not know.
func (r *releases) confirmed(x exchange, reply delegation, now time.Time) []netip.Prefix {
	w, ok := r.waiting[x]
	if !ok || reply.status != 0 || !w.until.After(now) {
		return nil
	}
	var out []netip.Prefix
	for _, p := range w.prefixes {
		if !reply.refused[p.iaid] {
			out = append(out, p.prefix)
		}
	}
	return out
}
