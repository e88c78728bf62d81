package main

import (
	"net"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sixacre/sixacre/api"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sixacre": main})
}

// The scripts in testdata are what an operator types and sees.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": exitStatus,
			"served": served,
		},
	})
}

// exitStatus runs a command that must exit with the given status:
//
//	status 2 sixacre pod bogus
func exitStatus(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if exit, ok := err.(*exec.ExitError); ok {
		got = string(rune('0' + exit.ExitCode()))
	}
	if (got == args[0]) == neg {
		ts.Fatalf("exit status %s, want %s", got, args[0])
	}
}

// served waits until a server listens on the socket in the directory.
func served(ts *testscript.TestScript, _ bool, args []string) {
	socket := filepath.Join(ts.MkAbs(args[0]), api.SocketName)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return
		}
	}
	ts.Fatalf("no server came up on %s", socket)
}
