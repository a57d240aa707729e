"""The kinds of channels. A file here is the table of a kind; `gateway/providers/` has a file of the same name."""

from gateway.config.channels.base import Channel, OnAmbiguous, Satisfied
from gateway.config.channels.fcm import Fcm
from gateway.config.channels.ntfy import Ntfy
from gateway.config.channels.pagerduty import PagerDuty
from gateway.config.channels.sendgrid import SendGrid
from gateway.config.channels.slack import Slack
from gateway.config.channels.slack_hook import SlackHook
from gateway.config.channels.smtp import Smtp
from gateway.config.channels.telegram import Telegram
from gateway.config.channels.twilio import Twilio
from gateway.config.channels.webhook import Webhook
from gateway.config.channels.webpush import WebPush
from gateway.config.channels.whatsapp import Whatsapp

# the line of registry that a kind needs
KINDS: tuple[type[Channel], ...] = (
    Fcm,
    Ntfy,
    PagerDuty,
    SendGrid,
    Slack,
    SlackHook,
    Smtp,
    Telegram,
    Twilio,
    Webhook,
    WebPush,
    Whatsapp,
)

__all__ = [
    "KINDS",
    "Channel",
    "Fcm",
    "Ntfy",
    "OnAmbiguous",
    "PagerDuty",
    "Satisfied",
    "SendGrid",
    "Slack",
    "SlackHook",
    "Smtp",
    "Telegram",
    "Twilio",
    "WebPush",
    "Webhook",
    "Whatsapp",
]
