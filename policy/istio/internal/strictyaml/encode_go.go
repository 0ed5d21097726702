// SPDX-License-Identifier: Apache-2.0

package strictyaml

import (
	"cmp"
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strings"
)

// DecodeGo decodes n into v, a pointer to a Kubernetes API struct. It reports
// all errors, and says whether v is fit for further checks: what could not be
// read is zero in it. where names n in the errors, and is "" for a whole
// object.
func DecodeGo(n *Node, v any, where string, p *Reporter) bool {
	e := &encoder{p: p}
	e.goValue(n, reflect.TypeOf(v).Elem(), where)
	err := json.Unmarshal(e.buf.Bytes(), v)
	if err != nil && !e.bad {
		p.Errorf(n, "%s: %s", where, strings.TrimPrefix(err.Error(), "json: "))
	}
	return err == nil
}

// Word is a string that may be one of those that YAML 1.1 has for a boolean,
// such as off. It is read as it is written.
type Word string

func (e *encoder) goValue(n *Node, t reflect.Type, where string) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.IsNull() { // encoding/json leaves the zero value
		e.buf.WriteString("null")
		return
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		e.any(n)
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		e.goStruct(n, t, where)
	case reflect.Slice:
		e.goSlice(n, t, where)
	case reflect.Map:
		if n.Kind != Mapping {
			e.expected(n, where, "a mapping")
			return
		}
		e.buf.WriteByte('{')
		for i := range n.Fields {
			e.key(i, n.Fields[i].Key)
			e.goValue(n.Fields[i].Value, t.Elem(), where+"["+n.Fields[i].Key+"]")
		}
		e.buf.WriteByte('}')
	case reflect.String:
		if n.Tag == "!!bool" && t == reflect.TypeFor[Word]() {
			e.string(n.Text)
			return
		}
		e.stringScalar(n, where)
	case reflect.Bool:
		e.boolScalar(n, where)
	case reflect.Int, reflect.Int32, reflect.Int64:
		bits := t.Bits()
		e.intScalar(n, where, -1<<(bits-1), 1<<(bits-1)-1, false)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		e.intScalar(n, where, 0, math.MaxUint64>>(64-t.Bits()), false)
	case reflect.Float32, reflect.Float64:
		e.floatScalar(n, where)
	default:
		e.any(n)
	}
}

func (e *encoder) goSlice(n *Node, t reflect.Type, where string) {
	if t.Elem().Kind() == reflect.Uint8 {
		e.stringScalar(n, where)
		return
	}
	if n.Kind != List {
		e.expected(n, where, "a list")
		return
	}
	e.list(n, func(item *Node, _ int) { e.goValue(item, t.Elem(), where) })
}

func (e *encoder) goStruct(n *Node, t reflect.Type, where string) {
	if n.Kind != Mapping {
		e.expected(n, where, "a mapping")
		return
	}
	known := e.p.Report.fieldsOf(t)
	e.buf.WriteByte('{')
	written := 0
	for i := range n.Fields {
		f := &n.Fields[i]
		ft, ok := known[f.Key]
		if !ok {
			names := make([]string, 0, len(known))
			for name := range known {
				names = append(names, name)
			}
			slices.Sort(names)
			e.unknown(f, cmp.Or(where, "the object"), names)
			continue
		}
		e.key(written, f.Key)
		written++
		e.goValue(f.Value, ft, strings.TrimPrefix(where+"."+f.Key, "."))
	}
	e.buf.WriteByte('}')
}

// Types are the fields of Go's structs by their JSON names, for one goroutine.
type Types map[reflect.Type]map[string]reflect.Type

// fieldsOf returns a struct's fields by their JSON names. It remembers them:
// each object has the same metadata.
func (r *Report) fieldsOf(t reflect.Type) map[string]reflect.Type {
	known, ok := r.Types[t]
	if !ok {
		known = map[string]reflect.Type{}
		goFields(t, known)
		r.Types[t] = known
	}
	return known
}

// goFields gathers a struct's fields by their JSON names.
func goFields(t reflect.Type, into map[string]reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
		case name == "" && (f.Anonymous || strings.Contains(opts, "inline")):
			if f.Type.Kind() == reflect.Struct {
				goFields(f.Type, into)
			}
		case name != "":
			into[name] = f.Type
		}
	}
}
