package sixacre

import (
	"errors"
	"fmt"
)

// Code says what kind of refusal an [Error] is. The API maps each to one HTTP
// status.
type Code string

const (
	Invalid     Code = "invalid"     // the value can never be accepted
	NotFound    Code = "not_found"   // the thing named does not exist
	Conflict    Code = "conflict"    // the name, MAC, address or prefix is taken
	InUse       Code = "in_use"      // something else still refers to the thing
	Exhausted   Code = "exhausted"   // no free prefix or address is left
	Denied      Code = "denied"      // the credential does not reach that far
	Unavailable Code = "unavailable" // the store could not be asked; try again
)

// Error is a refusal that a person can act on: one line that names the thing,
// the value and the way out.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }

// Errorf makes an [Error] of the given code.
func Errorf(code Code, format string, args ...any) error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// CodeOf returns the code of the first [Error] in err's chain, or "" where
// there is none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
