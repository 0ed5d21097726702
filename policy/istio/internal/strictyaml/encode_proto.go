// SPDX-License-Identifier: Apache-2.0

package strictyaml

import (
	"encoding/base64"
	"math"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// DecodeProto decodes n into m. It reports all errors, and says whether m is
// fit for further checks: what could not be read is zero in it. where names n
// in the errors. It takes what a cluster takes, which checks objects against a
// schema.
func DecodeProto(n *Node, m proto.Message, where string, p *Reporter) bool {
	return (&encoder{p: p}).decode(n, m, where)
}

// DecodeProtoJSON is DecodeProto for what no cluster checks. It takes all that
// protojson does: names of fields as the .proto file has them, enums by number
// and numbers in quotes.
func DecodeProtoJSON(n *Node, m proto.Message, where string, p *Reporter) bool {
	return (&encoder{p: p, lenient: true}).decode(n, m, where)
}

func (e *encoder) decode(n *Node, m proto.Message, where string) bool {
	e.message(n, m.ProtoReflect().Descriptor(), where)
	err := protojson.Unmarshal(e.buf.Bytes(), m)
	if err != nil && !e.bad {
		e.p.Errorf(n, "%s: %s", where, strings.ReplaceAll(err.Error(), "\u00a0", " "))
	}
	return err == nil
}

func (e *encoder) message(n *Node, md protoreflect.MessageDescriptor, where string) {
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
	if n.Kind != Mapping {
		e.expected(n, where, "a mapping")
		return
	}
	e.fields(n, md, where)
}

func (e *encoder) fields(n *Node, md protoreflect.MessageDescriptor, where string) {
	e.buf.WriteByte('{')
	set := map[protoreflect.Name]string{} // members of oneofs, and fields, that are set
	written := 0
	for i := range n.Fields {
		f := &n.Fields[i]
		fd := md.Fields().ByJSONName(f.Key)
		if fd == nil && (e.lenient || e.p.Report.isProtoNamed(f.Key)) {
			fd = md.Fields().ByTextName(f.Key)
		}
		if fd == nil {
			e.unknown(f, where, ProtoNames(md))
			continue
		}
		slot := fd.Name()
		if one := fd.ContainingOneof(); one != nil {
			slot = one.Name()
		}
		if other, dup := set[slot]; dup && !f.Value.IsNull() {
			e.bad = true
			e.p.Errorf(f.Pos(), "%s: only one of %q and %q may be set", where, other, f.Key)
			continue
		}
		if f.Value.IsNull() {
			continue // protojson reads null as unset
		}
		set[slot] = f.Key
		e.key(written, fd.JSONName())
		written++
		e.protoField(f.Value, fd, where+"."+fd.JSONName())
	}
	e.buf.WriteByte('}')
}

// ProtoNames are the names of a message's fields in JSON, in the order of its
// .proto file.
func ProtoNames(md protoreflect.MessageDescriptor) []string {
	names := make([]string, 0, md.Fields().Len())
	for i := range md.Fields().Len() {
		names = append(names, md.Fields().Get(i).JSONName())
	}
	return names
}

func (e *encoder) protoField(n *Node, fd protoreflect.FieldDescriptor, where string) {
	switch {
	case fd.IsMap():
		if n.Kind != Mapping {
			e.expected(n, where, "a mapping")
			return
		}
		e.buf.WriteByte('{')
		for i := range n.Fields {
			e.key(i, n.Fields[i].Key)
			e.element(n.Fields[i].Value, fd.MapValue(), where+"["+n.Fields[i].Key+"]")
		}
		e.buf.WriteByte('}')
	case fd.IsList():
		if n.Kind != List {
			e.expected(n, where, "a list")
			return
		}
		e.list(n, func(item *Node, _ int) { e.element(item, fd, where) })
	default:
		e.element(n, fd, where)
	}
}

func (e *encoder) element(n *Node, fd protoreflect.FieldDescriptor, where string) {
	start := e.buf.Len()
	switch {
	case n.IsNull():
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

func (e *encoder) scalarField(n *Node, fd protoreflect.FieldDescriptor, where string) {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		e.boolScalar(n, where)
	case protoreflect.StringKind:
		e.stringScalar(n, where)
	case protoreflect.BytesKind:
		if n.Tag == "!!str" {
			if _, err := base64.StdEncoding.DecodeString(n.Text); err != nil {
				e.errorf(n, "%s: expected base64: %s", where, err)
				return
			}
			if n.Text == "" {
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

func (e *encoder) enum(n *Node, ed protoreflect.EnumDescriptor, where string) {
	if v, ok := n.Value.(int64); ok && e.lenient && v == int64(int32(v)) && ed.Values().ByNumber(protoreflect.EnumNumber(v)) != nil {
		e.intScalar(n, where, math.MinInt32, math.MaxInt32, false)
		return
	}
	if n.Kind == Scalar && n.Tag == "!!str" && ed.Values().ByName(protoreflect.Name(n.Text)) != nil {
		e.string(n.Text)
		return
	}
	var names []string
	for i := range ed.Values().Len() {
		names = append(names, string(ed.Values().Get(i).Name()))
	}
	e.errorf(n, "%s: expected one of %s, got %s%s", where, strings.Join(names, ", "), n.What(), DidYouMean(n.Text, names))
}
