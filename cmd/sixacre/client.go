package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/api"
)

// defaultData is where a server keeps its data unless it is told otherwise.
const defaultData = "/var/lib/sixacre"

// clientFlags adds to a command, and those below it, the flags that say where the
// server is.
func clientFlags(c *cobra.Command) *cobra.Command {
	c.PersistentFlags().String("data", "", "the server's data `directory`, on its own machine (SIXACRE_DATA; default "+defaultData+")")
	c.PersistentFlags().String("server", "", "`URL` of the server, from elsewhere (SIXACRE_SERVER)")
	c.PersistentFlags().String("ca", "", "`file` with the CA of the server's certificate (SIXACRE_CA)")
	c.PersistentFlags().String("token-file", "", "`file` that holds the token (or the token itself in SIXACRE_TOKEN)")
	return c
}

// client connects to the server that flags and environment name. A flag for one
// place wins over the environment for the other.
func client(c *cobra.Command) (*api.Client, error) {
	flag := func(name string) string { v, _ := c.Flags().GetString(name); return v }
	e := api.Endpoint{Data: flag("data"), Server: flag("server"), TokenFile: flag("token-file")}
	if e.Data == "" {
		e.Server = cmp.Or(e.Server, os.Getenv("SIXACRE_SERVER"))
	}
	if e.TokenFile == "" {
		e.Token = os.Getenv("SIXACRE_TOKEN")
	}
	e.CAFile = cmp.Or(flag("ca"), os.Getenv("SIXACRE_CA"))
	e.Data = cmp.Or(e.Data, os.Getenv("SIXACRE_DATA"), defaultData)
	return api.Dial(e)
}

// call sends one request to the server and decodes its answer.
func call[T any](c *cobra.Command, method, path string, in any) (out T, err error) {
	server, err := client(c)
	if err != nil {
		return out, err
	}
	return out, server.Do(c.Context(), method, path, in, &out)
}

// send is call where no answer is expected.
func send(c *cobra.Command, method, path string, in any) error {
	server, err := client(c)
	if err != nil {
		return err
	}
	return server.Do(c.Context(), method, path, in, nil)
}

// outputFlag adds -o.
func outputFlag(c *cobra.Command) *cobra.Command {
	c.Flags().StringP("output", "o", "table", "`format`: table, json or yaml")
	return c
}

// row is one thing of a table: its cells.
type row []any

// show prints v as -o says. For a table, rows makes one row, or several, of each
// thing.
func show[T any](c *cobra.Command, v T, header string, rows func(T) []row) error {
	switch format, _ := c.Flags().GetString("output"); format {
	case "json":
		e := json.NewEncoder(c.OutOrStdout())
		e.SetIndent("", "  ")
		return e.Encode(v)
	case "yaml":
		b, err := yaml.Marshal(v)
		if err == nil {
			_, err = c.OutOrStdout().Write(b)
		}
		return err
	case "table":
		w := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, strings.ReplaceAll(header, " ", "\t"))
		for _, r := range rows(v) {
			cells := make([]string, len(r))
			for i, cell := range r {
				cells[i] = cmp.Or(fmt.Sprint(cell), "-")
			}
			fmt.Fprintln(w, strings.Join(cells, "\t"))
		}
		return w.Flush()
	default:
		return usageError(fmt.Sprintf("output %q is not known: use table, json or yaml", format))
	}
}

// each makes rows of a list by making rows of each thing.
func each[T any](rows func(T) []row) func([]T) []row {
	return func(list []T) (all []row) {
		for _, v := range list {
			all = append(all, rows(v)...)
		}
		return all
	}
}

// instant writes a time in one cell, and nothing for none.
func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

// join writes a list in one cell.
func join[T any](list []T) string {
	parts := make([]string, len(list))
	for i, v := range list {
		parts[i] = fmt.Sprint(v)
	}
	return strings.Join(parts, ",")
}

// parseEach reads the values of a flag that may be repeated.
func parseEach[T any](values []string, parse func(string) (T, error)) ([]T, error) {
	var out []T
	for _, s := range values {
		v, err := parse(s)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// parseAddr returns the parser of an address that is what.
func parseAddr(what string) func(string) (netip.Addr, error) {
	return func(s string) (netip.Addr, error) {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return a, sixacre.Errorf(sixacre.Invalid, "%s %q is not an address: write it as 2001:db8::1", what, s)
		}
		return a, nil
	}
}

// parsePrefix returns the parser of a prefix that is what, such as example.
func parsePrefix(what, example string) func(string) (netip.Prefix, error) {
	return func(s string) (netip.Prefix, error) {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return p, sixacre.Errorf(sixacre.Invalid, "%s %q is not a prefix: write it as %s", what, s, example)
		}
		return p, nil
	}
}

// parseDelegated reads a delegated prefix.
var parseDelegated = parsePrefix("prefix", "2001:db8:4000:10::/60")

// optional parses a flag's value unless it was left out. An empty value was not:
// it may be a shell's variable that nobody set.
func optional[T any](c *cobra.Command, flag string, parse func(string) (T, error)) (v T, err error) {
	if !c.Flags().Changed(flag) {
		return v, nil
	}
	s, err := c.Flags().GetString(flag)
	if err != nil {
		return v, err
	}
	return parse(s)
}

// pathOf is the path of the thing of that name under another path. A name that a
// path cannot hold is refused here; what else is wrong with it the server says.
func pathOf(thing, under, name string) (string, error) {
	if name == "" || name == "." || name == ".." {
		return "", sixacre.ValidateName(thing, name)
	}
	return under + url.PathEscape(name), nil
}
