// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"encoding/base64"
	"math"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// decodeProto decodes n into m. It reports all errors, and says whether m is
// fit for further checks: what could not be read is zero in it. where names n
// in the errors. It takes what a cluster takes, which checks objects against a
// schema.
func decodeProto(n *node, m proto.Message, where string, p *place) bool {
	return (&encoder{p: p}).decode(n, m, where)
}

// decodeProtoJSON is decodeProto for what no cluster checks. It takes all that
// protojson does: names of fields as the .proto file has them, enums by number
// and numbers in quotes.
func decodeProtoJSON(n *node, m proto.Message, where string, p *place) bool {
	return (&encoder{p: p, lenient: true}).decode(n, m, where)
}

func (e *encoder) decode(n *node, m proto.Message, where string) bool {
	e.message(n, m.ProtoReflect().Descriptor(), where)
	err := protojson.Unmarshal(e.buf.Bytes(), m)
	if err != nil && !e.bad {
		e.p.errorf(n, "%s: %s", where, strings.ReplaceAll(err.Error(), "\u00a0", " "))
	}
	return err == nil
}

func (e *encoder) message(n *node, md protoreflect.MessageDescriptor, where string) {
	switch md.FullName() {
	case "google.protobuf.Duration":
		e.duration(n, where)
		return
	case "google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.Any", "google.protobuf.Timestamp":
		e.any(n)
		return
	}
	if strings.HasPrefix(string(md.FullName()), "google.protobuf.") && strings.HasSuffix(string(md.Name()), "Value") {
		e.scalarField(n, md.Fields().ByName("value"), where)
		return
	}
	if n.kind != mapNode {
		e.expected(n, where, "a mapping")
		return
	}
	e.fields(n, md, where)
}

func (e *encoder) fields(n *node, md protoreflect.MessageDescriptor, where string) {
	e.buf.WriteByte('{')
	set := map[protoreflect.Name]string{} // members of oneofs, and fields, that are set
	written := 0
	for i := range n.fields {
		f := &n.fields[i]
		fd := md.Fields().ByJSONName(f.key)
		if fd == nil && (e.lenient || e.p.r.isProtoNamed(f.key)) {
			fd = md.Fields().ByTextName(f.key)
		}
		if fd == nil {
			e.unknown(f, where, protoNames(md))
			continue
		}
		slot := fd.Name()
		if one := fd.ContainingOneof(); one != nil {
			slot = one.Name()
		}
		if other, dup := set[slot]; dup && !f.value.isNull() {
			e.bad = true
			e.p.errorf(f.pos(), "%s: only one of %q and %q may be set", where, other, f.key)
			continue
		}
		if f.value.isNull() {
			continue // protojson reads null as unset
		}
		set[slot] = f.key
		e.key(written, fd.JSONName())
		written++
		e.protoField(f.value, fd, where+"."+fd.JSONName())
	}
	e.buf.WriteByte('}')
}

func protoNames(md protoreflect.MessageDescriptor) []string {
	names := make([]string, 0, md.Fields().Len())
	for i := range md.Fields().Len() {
		names = append(names, md.Fields().Get(i).JSONName())
	}
	return names
}

func (e *encoder) protoField(n *node, fd protoreflect.FieldDescriptor, where string) {
	switch {
	case fd.IsMap():
		if n.kind != mapNode {
			e.expected(n, where, "a mapping")
			return
		}
		e.buf.WriteByte('{')
		for i := range n.fields {
			e.key(i, n.fields[i].key)
			e.element(n.fields[i].value, fd.MapValue(), where+"["+n.fields[i].key+"]")
		}
		e.buf.WriteByte('}')
	case fd.IsList():
		if n.kind != listNode {
			e.expected(n, where, "a list")
			return
		}
		e.list(n, func(item *node, _ int) { e.element(item, fd, where) })
	default:
		e.element(n, fd, where)
	}
}

func (e *encoder) element(n *node, fd protoreflect.FieldDescriptor, where string) {
	start := e.buf.Len()
	switch {
	case n.isNull():
		e.errorf(n, "%s cannot be null", where)
	case fd.Message() != nil:
		e.message(n, fd.Message(), where)
	default:
		e.scalarField(n, fd, where)
	}
	if end := e.buf.Len(); e.stand == end && end == start+len("null") {
		e.buf.Truncate(start)
		e.buf.WriteString(zeroJSON(fd))
	}
}

// zeroJSON is the zero value of a field's elements. protojson reads null as
// such for fields only, not in lists and maps.
func zeroJSON(fd protoreflect.FieldDescriptor) string {
	if md := fd.Message(); md != nil {
		switch value := md.Fields().ByName("value"); {
		case md.FullName() == "google.protobuf.Duration":
			return `"0s"`
		case md.ParentFile().Package() != "google.protobuf":
		case strings.HasSuffix(string(md.Name()), "Value") && value != nil:
			return zeroJSON(value)
		}
		return "{}"
	}
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return "false"
	case protoreflect.StringKind, protoreflect.BytesKind:
		return `""`
	}
	return "0"
}

func (e *encoder) scalarField(n *node, fd protoreflect.FieldDescriptor, where string) {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		e.boolScalar(n, where)
	case protoreflect.StringKind:
		e.stringScalar(n, where)
	case protoreflect.BytesKind:
		if n.tag == "!!str" {
			if _, err := base64.StdEncoding.DecodeString(n.text); err != nil {
				e.errorf(n, "%s: expected base64: %s", where, err)
				return
			}
			if n.text == "" {
				e.errorf(n, "%s: expected base64, got nothing", where)
				return
			}
		}
		e.stringScalar(n, where)
	case protoreflect.EnumKind:
		e.enum(n, fd.Enum(), where)
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		e.intScalar(n, where, math.MinInt32, math.MaxInt32, true)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		e.intScalar(n, where, 0, math.MaxUint32, true)
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		e.intScalar(n, where, math.MinInt64, math.MaxInt64, true)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		e.intScalar(n, where, 0, math.MaxUint64, true)
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		e.floatScalar(n, where)
	default:
		e.errorf(n, "%s: a field of kind %s cannot be read", where, fd.Kind())
	}
}

func (e *encoder) enum(n *node, ed protoreflect.EnumDescriptor, where string) {
	if v, ok := n.value.(int64); ok && e.lenient && v == int64(int32(v)) && ed.Values().ByNumber(protoreflect.EnumNumber(v)) != nil {
		e.intScalar(n, where, math.MinInt32, math.MaxInt32, false)
		return
	}
	if n.kind == scalarNode && n.tag == "!!str" && ed.Values().ByName(protoreflect.Name(n.text)) != nil {
		e.string(n.text)
		return
	}
	var names []string
	for i := range ed.Values().Len() {
		names = append(names, string(ed.Values().Get(i).Name()))
	}
	e.errorf(n, "%s: expected one of %s, got %s%s", where, strings.Join(names, ", "), n.what(), didYouMean(n.text, names))
}
