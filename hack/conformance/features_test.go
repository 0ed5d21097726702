// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// notClaimed are the features that egressd does not have. docs/POLICY.md says what
// becomes of them.
var notClaimed = sets.New[features.FeatureName](
	features.SupportUDPRoute, features.SupportMesh, features.SupportListenerSet,
	features.SupportBackendTLSPolicy, features.SupportBackendTLSPolicySANValidation,
	features.SupportGatewayBackendClientCertificate,
	features.SupportGatewayFrontendClientCertificateValidation, features.SupportGatewayFrontendClientCertificateValidationInsecureFallback,
	features.SupportGatewayInfrastructure, features.SupportGatewayStaticAddresses, features.SupportGatewayAddressEmpty,
)
