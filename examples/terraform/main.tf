terraform {
  required_providers {
    azurerm = {
      source  = "hashicorp/azurerm"
      version = ">= 4.0"
    }
    azapi = {
      source  = "Azure/azapi"
      version = ">= 2.0"
    }
  }
}

provider "azurerm" {
  features {}
}

provider "azapi" {}

variable "workspace_name" {
  description = "Name of the Log Analytics workspace"
  type        = string
}

variable "resource_group_name" {
  description = "Resource group of the workspace"
  type        = string
}

data "azurerm_log_analytics_workspace" "this" {
  name                = var.workspace_name
  resource_group_name = var.resource_group_name
}

# The rules need Microsoft Sentinel to be enabled. Import this where it is already:
# terraform import azurerm_sentinel_log_analytics_workspace_onboarding.this \
#   <workspace id>/providers/Microsoft.SecurityInsights/onboardingStates/default
resource "azurerm_sentinel_log_analytics_workspace_onboarding" "this" {
  workspace_id = data.azurerm_log_analytics_workspace.this.id
}

module "rules" {
  source       = "./rules"
  workspace_id = azurerm_sentinel_log_analytics_workspace_onboarding.this.workspace_id
}
