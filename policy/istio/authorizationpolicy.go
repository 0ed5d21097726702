// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/authorization"
)

func translateAuthorizations(l *loader, cfg *policy.Config) {
	for _, d := range oldest(l.authorizations) {
		cfg.Authorizations = append(cfg.Authorizations, once(l, d.object, nil, func() *policy.AuthorizationPolicy {
			return authorization.Translate(authorization.Object{
				Checker: d.Checker, Ref: d.ref, Annotations: d.meta.Annotations, Root: d.root, Spec: d.spec(), V: d.v,
			})
		}))
	}
}
