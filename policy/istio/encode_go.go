// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strings"
)

// decodeGo decodes n into v, a pointer to a Kubernetes API struct. It reports
// all errors, and says whether v is fit for further checks: what could not be
// read is zero in it. where names n in the errors, and is "" for a whole
// object.
func decodeGo(n *node, v any, where string, p *place) bool {
	e := &encoder{p: p}
	e.goValue(n, reflect.TypeOf(v).Elem(), where)
	err := json.Unmarshal(e.buf.Bytes(), v)
	if err != nil && !e.bad {
		p.errorf(n, "%s: %s", where, strings.TrimPrefix(err.Error(), "json: "))
	}
	return err == nil
}

// word is a string that may be one of those that YAML 1.1 has for a boolean,
// such as off. It is read as it is written.
type word string

func (e *encoder) goValue(n *node, t reflect.Type, where string) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.isNull() { // encoding/json leaves the zero value
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
		if n.kind != mapNode {
			e.expected(n, where, "a mapping")
			return
		}
		e.buf.WriteByte('{')
		for i := range n.fields {
			e.key(i, n.fields[i].key)
			e.goValue(n.fields[i].value, t.Elem(), where+"["+n.fields[i].key+"]")
		}
		e.buf.WriteByte('}')
	case reflect.String:
		if n.tag == "!!bool" && t == reflect.TypeFor[word]() {
			e.string(n.text)
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

func (e *encoder) goSlice(n *node, t reflect.Type, where string) {
	if t.Elem().Kind() == reflect.Uint8 {
		e.stringScalar(n, where)
		return
	}
	if n.kind != listNode {
		e.expected(n, where, "a list")
		return
	}
	e.list(n, func(item *node, _ int) { e.goValue(item, t.Elem(), where) })
}

func (e *encoder) goStruct(n *node, t reflect.Type, where string) {
	if n.kind != mapNode {
		e.expected(n, where, "a mapping")
		return
	}
	known := e.p.r.fieldsOf(t)
	e.buf.WriteByte('{')
	written := 0
	for i := range n.fields {
		f := &n.fields[i]
		ft, ok := known[f.key]
		if !ok {
			names := make([]string, 0, len(known))
			for name := range known {
				names = append(names, name)
			}
			slices.Sort(names)
			e.unknown(f, cmp.Or(where, "the object"), names)
			continue
		}
		e.key(written, f.key)
		written++
		e.goValue(f.value, ft, strings.TrimPrefix(where+"."+f.key, "."))
	}
	e.buf.WriteByte('}')
}

// types are the fields of Go's structs by their JSON names, for one goroutine.
type types map[reflect.Type]map[string]reflect.Type

// fieldsOf returns a struct's fields by their JSON names. It remembers them:
// each object has the same metadata.
func (r *report) fieldsOf(t reflect.Type) map[string]reflect.Type {
	known, ok := r.types[t]
	if !ok {
		known = map[string]reflect.Type{}
		goFields(t, known)
		r.types[t] = known
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
