"""sigma2kql: Sigma detection rules to KQL for Microsoft Sentinel and Defender XDR."""

__version__ = "0.1.0"
