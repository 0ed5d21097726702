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
