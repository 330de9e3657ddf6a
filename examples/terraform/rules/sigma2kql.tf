terraform {
  required_providers {
    azurerm = {
      source  = "hashicorp/azurerm"
      version = ">= 4.19"
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
let Matches = materialize(
    SecurityEvent
    | where EventID == 4625
    | project
        TimeGenerated,
        IngestedAt = coalesce(ingestion_time(), TimeGenerated),
        CorrelatedRule = "failed_logon",
        Computer = tolower(Computer),
        TargetUserName,
        ProcessName,
        IpAddress,
        EventID
    | where isnotempty(Computer)
    | where Computer != "-");
Matches
| join hint.shufflekey=Computer kind=leftsemi (Matches | summarize Held = count() by Computer | where Held >= 20) on Computer
| sort by Computer asc, TimeGenerated asc
| extend Fires = prev(Computer, 19) == Computer and TimeGenerated - prev(TimeGenerated, 19) <= 10m
| sort by Computer asc, TimeGenerated desc, Fires desc
| scan declare (FiresAt: datetime, Burst: datetime, ReadyAt: datetime, Depth: long) with (
    step later: true =>
        FiresAt = iff(Fires, TimeGenerated, iff(later.Computer == Computer, later.FiresAt, datetime(null))),
        Burst = iff(Fires and (not(later.Computer == Computer) or isnull(later.FiresAt) or later.FiresAt - TimeGenerated > 10m), TimeGenerated, iff(later.Computer == Computer, later.Burst, datetime(null))),
        ReadyAt = iff(not(later.Computer == Computer) or isnull(later.ReadyAt) or (Fires and later.TimeGenerated > TimeGenerated), IngestedAt, max_of(IngestedAt, later.ReadyAt)),
        Depth = iff(later.Computer == Computer, later.Depth + 1, 0);
)
| where FiresAt - TimeGenerated <= 10m
| summarize
    FirstSeen = min(TimeGenerated),
    LastSeen = max(TimeGenerated),
    EventCount = count(),
    Rules = make_set(CorrelatedRule, 25),
    arg_max(TimeGenerated, TargetUserName, ProcessName, IpAddress, EventID),
    SampleEvents = make_list(bag_pack("TimeGenerated", TimeGenerated, "CorrelatedRule", CorrelatedRule, "TargetUserName", TargetUserName, "ProcessName", ProcessName, "IpAddress", IpAddress, "EventID", EventID), 10),
    arg_max(Depth, ReadyAt)
    by Computer, Burst
| project
    TimeGenerated,
    FirstSeen,
    LastSeen,
    Computer,
    EventCount,
    Rules,
    TargetUserName,
    ProcessName,
    IpAddress,
    EventID,
    SampleEvents,
    ReadyAt
| where ReadyAt > ago(30m)
KQL
  query_frequency            = "PT30M"
  query_period               = "PT40M"
  trigger_operator           = "GreaterThan"
  trigger_threshold          = 0
  suppression_enabled        = false
  suppression_duration       = "PT1H"
  tactics                    = ["CredentialAccess"]
  techniques                 = ["T1110"]
  custom_details = {
    Computer   = "Computer"
    FirstSeen  = "FirstSeen"
    LastSeen   = "LastSeen"
    EventCount = "EventCount"
    Rules      = "Rules"
  }
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
  entity_mapping {
    entity_type = "Account"
    field_mapping {
      identifier  = "Name"
      column_name = "TargetUserName"
    }
  }
  entity_mapping {
    entity_type = "IP"
    field_mapping {
      identifier  = "Address"
      column_name = "IpAddress"
    }
  }
  alert_details_override {
    display_name_format = "Many Failed Logons On One Host: {{Computer}}, {{FirstSeen}}, {{LastSeen}}"
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
DeviceProcessEvents
| where ActionType == "ProcessCreated"
| where FolderPath !startswith_cs "/"
| where FolderPath has_any ("powershell", "pwsh")
| where FolderPath endswith @"\powershell.exe" or FolderPath endswith @"\pwsh.exe"
| where ProcessCommandLine contains " -enc " or ProcessCommandLine contains " -encodedcommand "
| where DeviceName !in~ ("paw-01", "paw-02")
| extend AlgorithmSHA256 = "SHA256",
         ProcessCommandLineShort = substring(ProcessCommandLine, 0, 1500)
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
        aggregationKind = "AlertPerResult"
      }
      customDetails = {
        Image       = "FolderPath"
        CommandLine = "ProcessCommandLineShort"
        Computer    = "DeviceName"
      }
      alertDetailsOverride = {
        alertDisplayNameFormat = "PowerShell Started With An Encoded Command by {{AccountName}} on {{DeviceName}}"
      }
      entityMappings = [
        {
          entityType = "Host"
          fieldMappings = [
            {
              identifier = "FullName"
              columnName = "DeviceName"
            },
          ]
        },
        {
          entityType = "Account"
          fieldMappings = [
            {
              identifier = "Name"
              columnName = "AccountName"
            },
            {
              identifier = "NTDomain"
              columnName = "AccountDomain"
            },
            {
              identifier = "Sid"
              columnName = "AccountSid"
            },
          ]
        },
        {
          entityType = "Process"
          fieldMappings = [
            {
              identifier = "ProcessId"
              columnName = "ProcessId"
            },
            {
              identifier = "CommandLine"
              columnName = "ProcessCommandLine"
            },
          ]
        },
        {
          entityType = "File"
          fieldMappings = [
            {
              identifier = "Name"
              columnName = "FileName"
            },
            {
              identifier = "Directory"
              columnName = "FolderPath"
            },
          ]
        },
        {
          entityType = "FileHash"
          fieldMappings = [
            {
              identifier = "Algorithm"
              columnName = "AlgorithmSHA256"
            },
            {
              identifier = "Value"
              columnName = "SHA256"
            },
          ]
        },
        {
          entityType = "Process"
          fieldMappings = [
            {
              identifier = "ProcessId"
              columnName = "InitiatingProcessId"
            },
            {
              identifier = "CommandLine"
              columnName = "InitiatingProcessCommandLine"
            },
          ]
        },
        {
          entityType = "Account"
          fieldMappings = [
            {
              identifier = "Name"
              columnName = "InitiatingProcessAccountName"
            },
            {
              identifier = "NTDomain"
              columnName = "InitiatingProcessAccountDomain"
            },
            {
              identifier = "Sid"
              columnName = "InitiatingProcessAccountSid"
            },
          ]
        },
      ]
      incidentConfiguration = {
        createIncident = true
        groupingConfiguration = {
          enabled              = true
          reopenClosedIncident = false
          lookbackDuration     = "PT5H"
          matchingMethod       = "Selected"
          groupByEntities      = ["Host", "Account"]
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
DeviceProcessEvents
| where ActionType == "ProcessCreated"
| where FolderPath !startswith_cs "/"
| where InitiatingProcessFolderPath has_any ("winword", "excel", "outlook")
| where InitiatingProcessFolderPath endswith @"\winword.exe"
    or InitiatingProcessFolderPath endswith @"\excel.exe"
    or InitiatingProcessFolderPath endswith @"\outlook.exe"
| where FolderPath endswith @"\cmd.exe" or FolderPath endswith @"\powershell.exe" or FolderPath endswith @"\wscript.exe"
| extend AlgorithmSHA256 = "SHA256"
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
        aggregationKind = "AlertPerResult"
      }
      customDetails = {
        ParentImage = "InitiatingProcessFolderPath"
        Image       = "FolderPath"
      }
      alertDetailsOverride = {
        alertDisplayNameFormat = "Office started a shell on {{DeviceName}}"
      }
      entityMappings = [
        {
          entityType = "Host"
          fieldMappings = [
            {
              identifier = "FullName"
              columnName = "DeviceName"
            },
          ]
        },
        {
          entityType = "Account"
          fieldMappings = [
            {
              identifier = "Name"
              columnName = "AccountName"
            },
            {
              identifier = "NTDomain"
              columnName = "AccountDomain"
            },
            {
              identifier = "Sid"
              columnName = "AccountSid"
            },
          ]
        },
        {
          entityType = "Process"
          fieldMappings = [
            {
              identifier = "ProcessId"
              columnName = "ProcessId"
            },
            {
              identifier = "CommandLine"
              columnName = "ProcessCommandLine"
            },
          ]
        },
        {
          entityType = "File"
          fieldMappings = [
            {
              identifier = "Name"
              columnName = "FileName"
            },
            {
              identifier = "Directory"
              columnName = "FolderPath"
            },
          ]
        },
        {
          entityType = "FileHash"
          fieldMappings = [
            {
              identifier = "Algorithm"
              columnName = "AlgorithmSHA256"
            },
            {
              identifier = "Value"
              columnName = "SHA256"
            },
          ]
        },
        {
          entityType = "Process"
          fieldMappings = [
            {
              identifier = "ProcessId"
              columnName = "InitiatingProcessId"
            },
            {
              identifier = "CommandLine"
              columnName = "InitiatingProcessCommandLine"
            },
          ]
        },
        {
          entityType = "Account"
          fieldMappings = [
            {
              identifier = "Name"
              columnName = "InitiatingProcessAccountName"
            },
            {
              identifier = "NTDomain"
              columnName = "InitiatingProcessAccountDomain"
            },
            {
              identifier = "Sid"
              columnName = "InitiatingProcessAccountSid"
            },
          ]
        },
      ]
      incidentConfiguration = {
        createIncident = true
        groupingConfiguration = {
          enabled              = true
          reopenClosedIncident = false
          lookbackDuration     = "PT5H"
          matchingMethod       = "Selected"
          groupByEntities      = ["Host", "Account"]
          groupByAlertDetails  = []
          groupByCustomDetails = []
        }
      }
    }
  }
}
