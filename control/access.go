package control

import (
	"context"
	"crypto/rand"
	"crypto/sha256"

	"github.com/sixacre/sixacre"
)

// newToken returns a token with a fresh secret, which is shown once and never
// kept.
func newToken(t sixacre.Token) (sixacre.Token, string) {
	secret := "sixacre-" + rand.Text() + rand.Text()
	hash := sha256.Sum256([]byte(secret))
	t.Hash = hash[:]
	return t, secret
}

// hostToken is the name of the token that comes with a host: one that nobody
// can choose for another.
func hostToken(host string) string { return "host:" + host }

// CreateHost writes a host, and returns the secret with which its agent sees
// its own NICs.
func (c *Control) CreateHost(ctx context.Context, h sixacre.Host) (string, error) {
	if err := sixacre.ValidateName("host", h.Name); err != nil {
		return "", err
	}
	t, secret := newToken(sixacre.Token{Name: hostToken(h.Name), Role: sixacre.RoleHost, Host: h.Name})
	return secret, c.change(ctx, func(a *attempt) error {
		err := fresh(a, "host", h.Key())
		a.Put = append(a.Put, h, t)
		return err
	})
}

// learnTokens makes new tokens good, and those that are revoked good for nothing,
// before whoever asked for it is answered.
func (c *Control) learnTokens(written sixacre.Txn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, noun := range written.Put {
		if t, ok := noun.(sixacre.Token); ok {
			c.apply(sixacre.Event{Key: t.Key(), Noun: t})
		}
	}
	for _, key := range written.Delete {
		if key.Kind == sixacre.KindToken {
			c.apply(sixacre.Event{Key: key})
		}
	}
}

// Hosts returns all hosts by name.
func (c *Control) Hosts(ctx context.Context) ([]sixacre.Host, error) {
	return list[sixacre.Host](ctx, c, sixacre.KindHost)
}

// Host returns one host.
func (c *Control) Host(ctx context.Context, name string) (sixacre.Host, error) {
	return get[sixacre.Host](ctx, c, "host", sixacre.Host{Name: name}.Key())
}

// DeleteHost removes a host that no NIC is on, and its tokens.
func (c *Control) DeleteHost(ctx context.Context, name string) error {
	return c.change(ctx, func(a *attempt) error {
		h, err := must[sixacre.Host](a, "host", sixacre.Host{Name: name}.Key())
		if err != nil {
			return err
		}
		if err := a.each(sixacre.KindInstance, func(n sixacre.Noun) error {
			for _, nic := range n.(sixacre.Instance).NICs {
				if nic.On(name) {
					return sixacre.Errorf(sixacre.InUse, "host %s is in use by instance %s: move or delete it first", name, n.Key().Name)
				}
			}
			return nil
		}); err != nil {
			return err
		}
		if err := a.dropTokens(func(t sixacre.Token) bool { return t.Role == sixacre.RoleHost && t.Host == name }); err != nil {
			return err
		}
		a.Delete = append(a.Delete, h.Key())
		return nil
	})
}

// CreateToken writes a token, and returns its secret.
func (c *Control) CreateToken(ctx context.Context, t sixacre.Token) (secret string, err error) {
	if err := t.Validate(); err != nil {
		return "", err
	}
	t, secret = newToken(t)
	return secret, c.change(ctx, func(a *attempt) error {
		if err := fresh(a, "token", t.Key()); err != nil {
			return err
		}
		a.Put = append(a.Put, t)
		var err error
		switch t.Role {
		case sixacre.RoleHost:
			_, err = must[sixacre.Host](a, "host", sixacre.Host{Name: t.Host}.Key())
		case sixacre.RoleRouter:
			_, err = must[sixacre.Pod](a, "pod", sixacre.Pod{Name: t.Pod}.Key())
		}
		return err
	})
}

// Tokens returns all tokens by name, without their hashes.
func (c *Control) Tokens(ctx context.Context) ([]sixacre.Token, error) {
	tokens, err := list[sixacre.Token](ctx, c, sixacre.KindToken)
	for i := range tokens {
		tokens[i].Hash = nil
	}
	return tokens, err
}

// DeleteToken revokes a token.
func (c *Control) DeleteToken(ctx context.Context, name string) error {
	return c.change(ctx, func(a *attempt) error {
		t, err := must[sixacre.Token](a, "token", sixacre.Token{Name: name}.Key())
		a.Delete = append(a.Delete, t.Key())
		return err
	})
}

// dropTokens plans to revoke the tokens that match.
func (a *attempt) dropTokens(match func(sixacre.Token) bool) error {
	return a.each(sixacre.KindToken, func(n sixacre.Noun) error {
		if match(n.(sixacre.Token)) {
			a.Delete = append(a.Delete, n.Key())
		}
		return nil
	})
}

// Authenticate returns the token whose secret was shown, and whether there is
// one. It compares hashes, so that the time it takes tells nothing of a secret.
func (c *Control) Authenticate(secret string) (sixacre.Token, bool) {
	hash := sha256.Sum256([]byte(secret))
	c.mu.Lock()
	t, ok := c.tokens[hash]
	c.mu.Unlock()
	return t, ok
}

// Valid reports whether a token that was authenticated before is still good.
// The local administrator's has no hash and always is.
func (c *Control) Valid(t sixacre.Token) bool {
	if t.Hash == nil {
		return t.Role == sixacre.RoleAdmin
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.tokens[[32]byte(t.Hash)]
	return ok
}

// EnsureServerID makes sure that the store has a server DUID, a DUID-UUID
// (RFC 9915 section 11.5, RFC 6355): made once, the same for every replica.
func (c *Control) EnsureServerID(ctx context.Context) error {
	return c.change(ctx, func(a *attempt) error {
		_, found, err := read[sixacre.ServerID](a, sixacre.ServerIDKey)
		if err != nil || found {
			return err
		}
		duid := make([]byte, 18)
		rand.Read(duid)
		duid[0], duid[1] = 0, 4
		duid[8] = duid[8]&0x0f | 0x40   // version 4: random (RFC 9562 section 5.4)
		duid[10] = duid[10]&0x3f | 0x80 // variant
		a.Put = append(a.Put, sixacre.ServerID{DUID: duid})
		return nil
	})
}
