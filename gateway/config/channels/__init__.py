"""The kinds of channels. A file here is the table of a kind; `gateway/providers/` has a file of the same name."""

from gateway.config.channels.apprise import Apprise
from gateway.config.channels.base import Channel, OnAmbiguous, Satisfied
from gateway.config.channels.discord import Discord
from gateway.config.channels.fcm import Fcm
from gateway.config.channels.hubspot import HubSpot
from gateway.config.channels.ntfy import Ntfy
from gateway.config.channels.pagerduty import PagerDuty
from gateway.config.channels.salesforce import Salesforce
from gateway.config.channels.sendgrid import SendGrid
from gateway.config.channels.ses import Ses
from gateway.config.channels.slack import Slack
from gateway.config.channels.slack_hook import SlackHook
from gateway.config.channels.smtp import Smtp
from gateway.config.channels.sns import Sns
from gateway.config.channels.teams import Teams
from gateway.config.channels.teams_graph import TeamsGraph
from gateway.config.channels.telegram import Telegram
from gateway.config.channels.twilio import Twilio
from gateway.config.channels.webhook import Webhook
from gateway.config.channels.webpush import WebPush
from gateway.config.channels.whatsapp import Whatsapp

# the line of registry that a kind needs
KINDS: tuple[type[Channel], ...] = (
    Apprise,
    Discord,
    Fcm,
    HubSpot,
    Ntfy,
    PagerDuty,
    Salesforce,
    SendGrid,
    Ses,
    Slack,
    SlackHook,
    Smtp,
    Sns,
    Teams,
    TeamsGraph,
    Telegram,
    Twilio,
    Webhook,
    WebPush,
    Whatsapp,
)

__all__ = [
    "KINDS",
    "Apprise",
    "Channel",
    "Discord",
    "Fcm",
    "HubSpot",
    "Ntfy",
    "OnAmbiguous",
    "PagerDuty",
    "Salesforce",
    "Satisfied",
    "SendGrid",
    "Ses",
    "Slack",
    "SlackHook",
    "Smtp",
    "Sns",
    "Teams",
    "TeamsGraph",
    "Telegram",
    "Twilio",
    "WebPush",
    "Webhook",
    "Whatsapp",
]
