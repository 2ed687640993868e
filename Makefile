.PHONY: deb
deb: ## Build the package dist/enclave-cli_<version>_amd64.deb
	packaging/build-deb
