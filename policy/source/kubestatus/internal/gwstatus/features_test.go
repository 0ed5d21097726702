// SPDX-License-Identifier: Apache-2.0

package gwstatus

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// notClaimed are the features of Gateways and routes that egressd does not have.
var notClaimed = sets.New[features.FeatureName](
	features.SupportUDPRoute, features.SupportListenerSet,
	features.SupportBackendTLSPolicy, features.SupportBackendTLSPolicySANValidation,
	features.SupportGatewayBackendClientCertificate,
	features.SupportGatewayFrontendClientCertificateValidation, features.SupportGatewayFrontendClientCertificateValidationInsecureFallback,
	features.SupportGatewayInfrastructure, features.SupportGatewayStaticAddresses, features.SupportGatewayAddressEmpty,
)

// TestSupportedFeatures: each feature of the Gateway API is claimed or is not, so that
// a new one is decided upon. Those of meshes have no place in a class's status.
func TestSupportedFeatures(t *testing.T) {
	mesh := features.SetsToNamesSet(features.MeshCoreFeatures, features.MeshExtendedFeatures)
	want := features.SetsToNamesSet(features.AllFeatures).Difference(mesh).Difference(notClaimed)
	if got := supported[:]; !slices.Equal(got, sets.List(want)) {
		t.Errorf("the class claims\n%v\nand of the features that there are, all but notClaimed are, sorted,\n%v", got, sets.List(want))
	}
	const most = 64 // of the definition of GatewayClass
	if got := supportedFeatures(); len(got) != len(supported) || len(got) > most || string(got[0].Name) != string(supported[0]) {
		t.Errorf("%v", got)
	}
}
