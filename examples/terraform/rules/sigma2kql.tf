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

variable "workspace_id" {
  description = "Resource id of the Log Analytics workspace that Microsoft Sentinel is enabled on"
  type        = string
}

resource "azurerm_log_analytics_saved_search" "sigma_c2d7e8f1_3b6a_4e9d_a0f5_7e6d5c4cc205" {
  name                       = "c2d7e8f1-3b6a-4e9d-a0f5-7e6d5c4cc205"
  log_analytics_workspace_id = var.workspace_id
  category                   = "Hunting Queries"
  display_name               = "Rare parents of command interpreters"
  query                      = <<KQL
SecurityEvent
| where EventID == 4688
| where NewProcessName endswith @"\cmd.exe" or NewProcessName endswith @"\powershell.exe"
| summarize Hosts = dcount(Computer), Started = count() by ParentProcessName
| where Hosts <= 3
KQL
  tags = {
    description = "Counts which programs started a command interpreter, and shows those that did so on few hosts."
    tactics     = "Execution"
    techniques  = "T1059"
  }
}

resource "azurerm_sentinel_alert_rule_scheduled" "sigma_4a3c9e1d_7d0e_4f6b_b1c8_6d5f4e3bb204" {
  name                       = "4a3c9e1d-7d0e-4f6b-b1c8-6d5f4e3bb204"
  log_analytics_workspace_id = var.workspace_id
  display_name               = "Many Failed Logons On One Host"
  description                = "Counts failed logons by host, whoever tried.\n\nAuthor: The sigma2kql project\nSigma rule: 4a3c9e1d-7d0e-4f6b-b1c8-6d5f4e3bb204"
  severity                   = "Medium"
  enabled                    = true
  query                      = <<KQL
SecurityEvent
| where EventID == 4625
| project TimeGenerated, Computer, CorrelatedRule = "failed_logon"
| where isnotempty(Computer)
| sort by Computer asc, TimeGenerated asc
| extend FirstSeen = prev(TimeGenerated, 19), SameGroup = isnotnull(prev(TimeGenerated, 19)) and prev(Computer, 19) == Computer
| where SameGroup and TimeGenerated - FirstSeen <= 10m
| summarize FirstSeen = min(FirstSeen), TimeGenerated = max(TimeGenerated) by Computer
KQL
  query_frequency            = "PT30M"
  query_period               = "PT40M"
  trigger_operator           = "GreaterThan"
  trigger_threshold          = 0
  suppression_enabled        = false
  suppression_duration       = "PT1H"
  tactics                    = ["CredentialAccess"]
  techniques                 = ["T1110"]
  event_grouping {
    aggregation_method = "AlertPerResult"
  }
  entity_mapping {
    entity_type = "Host"
    field_mapping {
      identifier  = "FullName"
      column_name = "Computer"
    }
  }
  incident {
    create_incident_enabled = true
    grouping {
      enabled                 = true
      lookback_duration       = "PT5H"
      reopen_closed_incidents = false
      entity_matching_method  = "AnyAlert"
    }
  }
}

resource "azapi_resource" "sigma_6f9d1c0e_27b5_4d0a_9d3e_5a1f0c7be201" {
  type      = "Microsoft.SecurityInsights/alertRules@2025-10-01-preview"
  name      = "6f9d1c0e-27b5-4d0a-9d3e-5a1f0c7be201"
  parent_id = var.workspace_id
  body = {
    kind = "Scheduled"
    properties = {
      displayName         = "PowerShell Started With An Encoded Command"
      description         = "Finds PowerShell that is handed its command in Base64, which hides it from people who read logs.\n\nFalse positives: Management software that wraps its scripts\nReferences: https://learn.microsoft.com/powershell/module/microsoft.powershell.core/about/about_powershell_exe\nAuthor: The sigma2kql project\nSigma rule: 6f9d1c0e-27b5-4d0a-9d3e-5a1f0c7be201"
      severity            = "Medium"
      enabled             = true
      query               = <<KQL
SecurityEvent
| where EventID == 4688
| where NewProcessName has_any ("powershell", "pwsh")
| where NewProcessName endswith @"\powershell.exe" or NewProcessName endswith @"\pwsh.exe"
| where CommandLine contains " -enc " or CommandLine contains " -encodedcommand "
| where Computer !in~ ("paw-01", "paw-02")
KQL
      queryFrequency      = "PT30M"
      queryPeriod         = "PT30M"
      triggerOperator     = "GreaterThan"
      triggerThreshold    = 0
      suppressionEnabled  = false
      suppressionDuration = "PT1H"
      tactics             = ["Execution"]
      techniques          = ["T1059"]
      subTechniques       = ["T1059.001"]
      eventGroupingSettings = {
        aggregationKind = "SingleAlert"
      }
      entityMappings = [
        {
          entityType = "Host"
          fieldMappings = [
            {
              identifier = "FullName"
              columnName = "Computer"
            },
          ]
        },
        {
          entityType = "Account"
          fieldMappings = [
            {
              identifier = "FullName"
              columnName = "Account"
            },
          ]
        },
        {
          entityType = "Process"
          fieldMappings = [
            {
              identifier = "ProcessId"
              columnName = "NewProcessId"
            },
            {
              identifier = "CommandLine"
              columnName = "CommandLine"
            },
          ]
        },
        {
          entityType = "IP"
          fieldMappings = [
            {
              identifier = "Address"
              columnName = "IpAddress"
            },
          ]
        },
      ]
      incidentConfiguration = {
        createIncident = true
        groupingConfiguration = {
          enabled              = false
          reopenClosedIncident = false
          lookbackDuration     = "PT5H"
          matchingMethod       = "AllEntities"
          groupByEntities      = []
          groupByAlertDetails  = []
          groupByCustomDetails = []
        }
      }
    }
  }
}

resource "azapi_resource" "sigma_0d6d0a52_5f0b_4a1f_8a53_9c2b7f4ee202" {
  type      = "Microsoft.SecurityInsights/alertRules@2025-10-01-preview"
  name      = "0d6d0a52-5f0b-4a1f-8a53-9c2b7f4ee202"
  parent_id = var.workspace_id
  body = {
    kind = "Scheduled"
    properties = {
      displayName         = "Office Application Starts A Shell"
      description         = "Finds Word, Excel or Outlook starting a command interpreter, as macros of malicious documents do.\n\nFalse positives: Add-ins that start scripts\nAuthor: The sigma2kql project\nSigma rule: 0d6d0a52-5f0b-4a1f-8a53-9c2b7f4ee202"
      severity            = "High"
      enabled             = true
      query               = <<KQL
SecurityEvent
| where EventID == 4688
| where ParentProcessName has_any ("winword", "excel", "outlook")
| where ParentProcessName endswith @"\winword.exe"
    or ParentProcessName endswith @"\excel.exe"
    or ParentProcessName endswith @"\outlook.exe"
| where NewProcessName endswith @"\cmd.exe"
    or NewProcessName endswith @"\powershell.exe"
    or NewProcessName endswith @"\wscript.exe"
KQL
      queryFrequency      = "PT5M"
      queryPeriod         = "PT5M"
      triggerOperator     = "GreaterThan"
      triggerThreshold    = 0
      suppressionEnabled  = false
      suppressionDuration = "PT1H"
      tactics             = ["Execution", "InitialAccess"]
      techniques          = ["T1566", "T1059"]
      subTechniques       = ["T1566.001"]
      eventGroupingSettings = {
        aggregationKind = "SingleAlert"
      }
      alertDetailsOverride = {
        alertDisplayNameFormat = "Office started a shell on {{Computer}}"
      }
      entityMappings = [
        {
          entityType = "Host"
          fieldMappings = [
            {
              identifier = "FullName"
              columnName = "Computer"
            },
          ]
        },
        {
          entityType = "Account"
          fieldMappings = [
            {
              identifier = "FullName"
              columnName = "Account"
            },
          ]
        },
        {
          entityType = "Process"
          fieldMappings = [
            {
              identifier = "ProcessId"
              columnName = "NewProcessId"
            },
            {
              identifier = "CommandLine"
              columnName = "CommandLine"
            },
          ]
        },
        {
          entityType = "IP"
          fieldMappings = [
            {
              identifier = "Address"
              columnName = "IpAddress"
            },
          ]
        },
      ]
      incidentConfiguration = {
        createIncident = true
        groupingConfiguration = {
          enabled              = false
          reopenClosedIncident = false
          lookbackDuration     = "PT5H"
          matchingMethod       = "AllEntities"
          groupByEntities      = []
          groupByAlertDetails  = []
          groupByCustomDetails = []
        }
      }
    }
  }
}
