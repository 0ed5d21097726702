// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// containerSelector is an item of a Workload's containers.
type containerSelector struct {
	Name    string            `json:"name"`
	Image   string            `json:"image"`
	Labels  map[string]string `json:"labels"`
	Runtime strictyaml.Word   `json:"runtime"`
}

var (
	// containerName are the names that Docker and podman give (moby
	// daemon/names), and '*'.
	containerName = regexp.MustCompile(`^[a-zA-Z0-9*][a-zA-Z0-9_.*-]*$`)
	// imageName is near to the form of references (distribution/reference), with '*'.
	imageName = regexp.MustCompile(`^[a-zA-Z0-9*][a-zA-Z0-9._:/@*-]*$`)
	// unitName are the characters of systemd.unit(5), and '*'.
	unitName = regexp.MustCompile(`^[a-zA-Z0-9:_.\\@*-]+$`)

	runtimes = []string{"docker", "podman", "containerd"}
	// unitTypes are those that have processes. Slices have a field of their own.
	unitTypes = []string{".service", ".scope", ".socket", ".mount", ".swap"}
)

const (
	maxImage = 1024
	maxUnit  = 255 // systemd's UNIT_NAME_MAX, 256 with its end
	slice    = ".slice"
)

// selectors checks what selects processes by the names that others have for them.
func (o *object) selectors(spec *workloadSpec, w *policy.Workload) {
	for i, c := range spec.Containers {
		if o.container(i, c) {
			w.Containers = append(w.Containers, policy.ContainerSelector{Name: c.Name, Image: c.Image, Labels: c.Labels, Runtime: string(c.Runtime)})
		}
	}
	for i, u := range spec.SystemdUnits {
		if err := checkUnit(u); err != nil {
			o.Errorf(o.spec("systemdUnits", i), "systemdUnits: %s", err)
			continue
		}
		w.Units = append(w.Units, u)
	}
	for i, s := range spec.SystemdSlices {
		if err := checkSlice(s); err != nil {
			o.Errorf(o.spec("systemdSlices", i), "systemdSlices: %s", err)
			continue
		}
		w.Slices = append(w.Slices, s)
	}
}

// container checks an item of containers, and says whether it is good.
func (o *object) container(i int, c containerSelector) bool {
	good := true
	bad := func(field, format string, args ...any) {
		good = false
		at := o.spec("containers", i)
		if field != "" {
			at = o.spec("containers", i, field)
		}
		o.Errorf(at, "containers: %s", fmt.Sprintf(format, args...))
	}
	if c.Name == "" && c.Image == "" && len(c.Labels) == 0 && c.Runtime == "" {
		bad("", `an item without name, image, labels and runtime selects nothing; for every container write name: "*"`)
	}
	switch {
	case strings.HasPrefix(c.Name, "/"):
		bad("name", "name %q: Docker's API writes the slash, people do not; write %q", c.Name, strings.TrimLeft(c.Name, "/"))
	case c.Name != "" && !containerName.MatchString(c.Name):
		bad("name", "name %q: names of containers have letters, digits, '_', '.' and '-'; '*' stands for any characters", c.Name)
	}
	switch {
	case c.Image == "":
	case strings.Contains(c.Image, "://"):
		bad("image", "image %q has a scheme; write the image as docker run has it, as in docker.io/library/nginx:1.27", c.Image)
	case len(c.Image) > maxImage || !imageName.MatchString(c.Image) || strings.Contains(c.Image, "//") || strings.HasSuffix(c.Image, "/"):
		bad("image", "image %q is not the name of an image, as in docker.io/library/nginx:1.27; '*' stands for any characters but a slash", c.Image)
	}
	for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
		if k == "" || strings.ContainsFunc(k+c.Labels[k], unicode.IsControl) {
			bad("labels", "label %q: %q: a label has a name, and no control characters", k, c.Labels[k])
		}
	}
	if r := string(c.Runtime); r != "" && !slices.Contains(runtimes, r) {
		bad("runtime", "runtime: expected one of %s, got %q%s", strings.Join(runtimes, ", "), r, strictyaml.DidYouMean(r, runtimes))
	}
	return good
}

// checkUnit checks the name of a unit, in which '*' may stand.
func checkUnit(s string) error {
	has := func(suffix string) bool { return strings.HasSuffix(s, suffix) && len(s) > len(suffix) }
	switch {
	case strings.Contains(s, "/"):
		return fmt.Errorf("%q has a slash: write the unit's name alone, or the path as an item of cgroups", s)
	case has(slice):
		return fmt.Errorf("%q is a slice; write it as an item of systemdSlices", s)
	case len(s) > maxUnit || !unitName.MatchString(s):
		return fmt.Errorf("%q is not the name of a unit, as in shop.service or shop@*.service", s)
	case !slices.ContainsFunc(unitTypes, has):
		return fmt.Errorf("%q: a unit with processes ends in one of %s; write the whole name, as in shop.service", s, strings.Join(unitTypes, ", "))
	}
	return nil
}

// checkSlice checks the name of a slice, in which '*' may stand.
func checkSlice(s string) error {
	name, ok := strings.CutSuffix(s, slice)
	switch {
	case strings.Contains(s, "/"):
		return fmt.Errorf("%q has a slash: write the slice's name alone (a-b.slice is in a.slice by itself), or the path as an item of cgroups", s)
	case s == "-"+slice:
		return fmt.Errorf("%q is the root of all; write cgroups: [\"**\"]", s)
	case !ok || name == "":
		return fmt.Errorf("%q does not end in .slice, as in shop.slice", s)
	case len(s) > maxUnit || !unitName.MatchString(s) || strings.HasPrefix(s, "-") || strings.HasSuffix(name, "-") || strings.Contains(s, "--"):
		return fmt.Errorf("%q is not the name of a slice, as in shop.slice or shop-front.slice", s)
	}
	return nil
}
