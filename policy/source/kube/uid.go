// SPDX-License-Identifier: Apache-2.0

package kube

import "k8s.io/apimachinery/pkg/types"

// UID is what the API server calls a pod of this node that has not ended. Of the mirror
// of a static pod that is not the name by which the kubelet knows it.
func (s *Informer) UID(namespace, name string) (types.UID, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.tables[podKind].objects[namespace+"/"+name]
	if o == nil || o.pod == nil {
		return "", false
	}
	return o.pod.named, true
}

// Successor says whether another pod of this node takes the place of one, given by the
// UID that its cgroup has: what made the one (its DaemonSet) has made the other one
// later, and does not delete it.
func (s *Informer) Successor(uid string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	pods := s.tables[podKind].objects
	var one *pod
	for _, o := range pods {
		if o.pod != nil && string(o.pod.uid) == uid {
			one = o.pod
		}
	}
	if one == nil || one.by == "" {
		return false
	}
	for _, o := range pods {
		// The API's times are whole seconds.
		if p := o.pod; p != nil && p != one && p.by == one.by && !p.ends && !p.made.Before(one.made) {
			return true
		}
	}
	return false
}
