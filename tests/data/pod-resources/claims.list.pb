
-
kube-proxy-x7k2pkube-system

kube-proxy
/
azure-cns-9wz4mkube-system
cns-container
è
	train-dravisionz
train*qtrain-dra-gpu-7c4xkvision"R
%
#k8s.gpu.nvidia.com/claim=0b1c-gpu-0gpu.nvidia.comaks-gpu-vmss000000"gpu-0
b
worker-0nlpQ
worker*Gimexnlp":compute-domain.nvidia.comaks-gpu-vmss000000"	channel-0