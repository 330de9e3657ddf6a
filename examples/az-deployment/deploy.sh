#!/bin/sh
# Deploy all rules of ../detections into one workspace: ./deploy.sh RESOURCE_GROUP WORKSPACE
# Needs `az login` and the role Microsoft Sentinel Contributor on the workspace.
set -eu
group=$1
workspace=$2
cd "$(dirname "$0")"

config=../detections/sigma2kql.yml
sigma2kql convert ../detections/rules/process ../detections/rules/logon --config "$config" -f arm --bundle -o rules.json
sigma2kql convert ../detections/rules/hunting --config "$config" -f hunting-arm --bundle -o hunting.json

for template in rules.json hunting.json; do
    az deployment group create \
        --name "sigma2kql-${template%.json}" \
        --resource-group "$group" \
        --template-file "$template" \
        --parameters workspace="$workspace" \
        --confirm-with-what-if
done
